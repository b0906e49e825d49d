//! Finds the head of each word: an arc-eager dependency parser (Nivre 2008, with spaCy's sentence breaks). A small
//! network that sees eight words chooses each move.

use crate::{
    network::{Matrix, Tensors, WIDTH},
    token::Token,
};

/// Width of the hidden layer.
const LOWER: usize = 64;
/// Width before the maxout: two pieces for each hidden unit.
const HIDDEN: usize = 2 * LOWER;
/// Number of words that a move depends on.
const SEEN: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Move {
    /// Pushes the next word onto the stack.
    Shift,
    /// Pops the top of the stack.
    Reduce,
    /// Makes the next word the head of the top of the stack, and pops the stack.
    Left,
    /// Makes the top of the stack the head of the next word, and pushes the next word.
    Right,
    /// Starts a sentence at the word after the next.
    Break,
}

pub struct Parser {
    project: Matrix,
    project_bias: Matrix,
    lower: Matrix,
    lower_bias: Matrix,
    /// Values for a missing word, `[SEEN, HIDDEN]`.
    pad: Matrix,
    upper: Matrix,
    upper_bias: Matrix,
    moves: Vec<(Move, String)>,
}

impl Parser {
    pub fn take(tensors: &mut Tensors, moves: &[String]) -> Result<Self, String> {
        let named = |name: &String| {
            let (kind, label) = name.split_once('-').unwrap_or((name, ""));
            let kind = match kind {
                "S" => Move::Shift,
                "D" => Move::Reduce,
                "L" => Move::Left,
                "R" => Move::Right,
                "B" => Move::Break,
                _ => return Err(format!("there is no move {name}")),
            };
            Ok((kind, label.to_owned()))
        };
        Ok(Self {
            project: tensors.take("parser.project.weight", LOWER, WIDTH)?,
            project_bias: tensors.take("parser.project.bias", 1, LOWER)?,
            lower: tensors.take("parser.lower.weight", SEEN * HIDDEN, LOWER)?,
            lower_bias: tensors.take("parser.lower.bias", 1, HIDDEN)?,
            pad: tensors.take("parser.lower.pad", SEEN, HIDDEN)?,
            upper: tensors.take("parser.upper.weight", moves.len(), LOWER)?,
            upper_bias: tensors.take("parser.upper.bias", 1, moves.len())?,
            moves: moves.iter().map(named).collect::<Result<_, _>>()?,
        })
    }

    /// Sets heads and labels of the tokens. `encoded`: `[tokens, WIDTH]`.
    pub fn parse(&self, tokens: &mut [Token], encoded: &[f32]) {
        let projected = self.project.apply(encoded, Some(&self.project_bias));
        let seen = self.lower.apply(&projected, None); // each word in each of its positions
        let mut state = State::new(tokens.len());
        // every word is moved only a few times; the limit stops an endless loop with a damaged model
        for _ in 0..20 * tokens.len() + 50 {
            if state.stack.is_empty() && state.left() == 0 {
                break;
            }
            let Some(best) = self.choose(&state, &seen) else { break };
            state.apply(self.moves[best].0, best);
        }
        for (i, token) in tokens.iter_mut().enumerate() {
            (token.head, token.dep) = match state.arcs[i] {
                Some((head, action)) => (head, self.moves[action].1.clone()),
                None => (i, "ROOT".into()),
            };
        }
        lift(tokens);
    }

    /// The allowed move with the highest score; `None` if no move is allowed.
    fn choose(&self, state: &State, seen: &[f32]) -> Option<usize> {
        let mut sum = self.lower_bias.values.clone();
        for (role, word) in state.context().into_iter().enumerate() {
            let part = match word {
                Some(word) => &seen[(word * SEEN + role) * HIDDEN..][..HIDDEN],
                None => self.pad.row(role),
            };
            sum.iter_mut().zip(part).for_each(|(sum, v)| *sum += v);
        }
        let hidden: Vec<f32> = sum.chunks_exact(2).map(|pair| pair[0].max(pair[1])).collect();
        let scores = self.upper.apply(&hidden, Some(&self.upper_bias));
        let mut best: Option<usize> = None;
        for (i, (kind, _)) in self.moves.iter().enumerate() {
            if state.allows(*kind) && best.is_none_or(|b| scores[i] > scores[b]) {
                best = Some(i);
            }
        }
        best
    }
}

struct State {
    length: usize,
    stack: Vec<usize>,
    /// The first word that was never on the stack.
    next: usize,
    /// Words that were put back before `next`, the nearest last.
    returned: Vec<usize>,
    /// Head and action of each word's arc.
    arcs: Vec<Option<(usize, usize)>>,
    /// Dependents of each word, in the order of their arcs: `left_of` those before it, `right_of` those after it.
    left_of: Vec<Vec<usize>>,
    right_of: Vec<Vec<usize>>,
    /// Whether a word was put back. Such a word is not pushed onto the stack again.
    was_returned: Vec<bool>,
    begins_sentence: Vec<bool>,
}

impl State {
    fn new(length: usize) -> Self {
        Self {
            length,
            stack: vec![],
            next: 0,
            returned: vec![],
            arcs: vec![None; length],
            left_of: vec![vec![]; length],
            right_of: vec![vec![]; length],
            was_returned: vec![false; length],
            begins_sentence: vec![false; length],
        }
    }

    fn left(&self) -> usize {
        self.length - self.next + self.returned.len()
    }

    fn ahead(&self, i: usize) -> Option<usize> {
        match self.returned.len().checked_sub(i + 1) {
            Some(at) => Some(self.returned[at]),
            None => Some(self.next + i - self.returned.len()).filter(|word| *word < self.length),
        }
    }

    fn on_stack(&self, i: usize) -> Option<usize> {
        self.stack.len().checked_sub(i + 1).map(|at| self.stack[at])
    }

    fn context(&self) -> [Option<usize>; SEEN] {
        let (first, top) = (self.ahead(0), self.on_stack(0));
        let leftmost = |word: Option<usize>| self.left_of[word?].last().copied();
        [
            first,
            self.ahead(1),
            top,
            self.on_stack(1),
            self.on_stack(2),
            leftmost(first),
            leftmost(top),
            top.and_then(|word| self.right_of[word].last().copied()),
        ]
    }

    fn allows(&self, kind: Move) -> bool {
        let (first, second) = (self.ahead(0), self.ahead(1));
        let begins = |word: Option<usize>| word.is_some_and(|word| self.begins_sentence[word]);
        match kind {
            Move::Shift => {
                self.stack.is_empty()
                    || self.left() >= 2 && !begins(first) && !first.is_some_and(|word| self.was_returned[word])
            }
            Move::Reduce => !self.stack.is_empty(),
            Move::Left | Move::Right => !self.stack.is_empty() && self.left() > 0 && !begins(first),
            Move::Break => self.left() >= 2 && second == first.map(|word| word + 1) && !begins(second),
        }
    }

    fn push_next(&mut self) {
        let word = self.returned.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        });
        self.stack.push(word);
    }

    fn arc(&mut self, head: usize, child: usize, action: usize) {
        if let Some((before, _)) = self.arcs[child] {
            let side = if before > child { &mut self.left_of } else { &mut self.right_of };
            side[before].retain(|word| *word != child);
        }
        let side = if head > child { &mut self.left_of } else { &mut self.right_of };
        side[head].push(child);
        self.arcs[child] = Some((head, action));
    }

    fn apply(&mut self, kind: Move, action: usize) {
        match (kind, self.on_stack(0), self.ahead(0)) {
            (Move::Shift, _, Some(_)) => self.push_next(),
            (Move::Reduce, Some(top), _) => {
                let is_done = self.arcs[top].is_some() || self.stack.len() == 1;
                self.stack.pop();
                if !is_done {
                    self.was_returned[top] = true;
                    self.returned.push(top);
                }
            }
            (Move::Left, Some(top), Some(first)) => {
                self.arc(first, top, action);
                self.was_returned[first] = false;
                self.stack.pop();
            }
            (Move::Right, Some(top), Some(first)) => {
                self.arc(top, first, action);
                self.push_next();
            }
            (Move::Break, ..) => {
                if let Some(second) = self.ahead(1) {
                    self.begins_sentence[second] = true;
                }
            }
            _ => {}
        }
    }
}

/// Resolves labels like `relcl||dobj`, which the model uses for crossing arcs: the true head of the word is the nearest
/// `dobj` below its head.
fn lift(tokens: &mut [Token]) {
    for i in 0..tokens.len() {
        let Some((label, target)) = tokens[i].dep.split_once("||").map(|(a, b)| (a.to_owned(), b.to_owned())) else {
            continue;
        };
        tokens[i].head = nearest(tokens, i, &target).unwrap_or(tokens[i].head);
        tokens[i].dep = label;
    }
}

fn nearest(tokens: &[Token], i: usize, label: &str) -> Option<usize> {
    let mut level = vec![tokens[i].head];
    let mut seen = vec![false; tokens.len()];
    while !level.is_empty() {
        let mut below = vec![];
        for head in level {
            for (c, child) in tokens.iter().enumerate() {
                if c == head
                    || child.head != head
                    || c == i
                    || child.is_space()
                    || std::mem::replace(&mut seen[c], true)
                {
                    continue;
                }
                if child.dep == label {
                    return Some(c);
                }
                below.push(c);
            }
        }
        level = below;
    }
    None
}
