//! The layers of spaCy's small English model: hash embeddings and a convolution over words.

use crate::{
    hash::{murmur2, murmur3},
    rules::Rules,
    token::Token,
};
use half::f16;
use safetensors::{Dtype, SafeTensors};
use std::collections::HashMap;

/// Length of a word's vector.
pub const WIDTH: usize = 96;
/// Pieces of a maxout unit.
const PIECES: usize = 3;
/// Convolutions, each with a residual connection.
const DEPTH: usize = 4;
/// Attributes of a word that have an embedding table each.
const TABLES: usize = 6;

/// A matrix, row by row; a vector is a matrix of one row.
pub struct Matrix {
    pub values: Vec<f32>,
    pub columns: usize,
}

impl Matrix {
    fn rows(&self) -> usize {
        self.values.len() / self.columns.max(1)
    }

    pub fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.columns..(i + 1) * self.columns]
    }

    /// `x` `[n, columns]` → `[n, rows]`: each row of x with each row of the matrix, plus the bias.
    pub fn apply(&self, x: &[f32], bias: Option<&Matrix>) -> Vec<f32> {
        let mut out = Vec::with_capacity(x.len() / self.columns * self.rows());
        for x in x.chunks_exact(self.columns) {
            for (i, row) in self.values.chunks_exact(self.columns).enumerate() {
                out.push(dot(x, row) + bias.map_or(0.0, |b| b.values[i]));
            }
        }
        out
    }
}

/// Dot product in lanes, so that the compiler can use vector registers. The lengths must be multiples of 16.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; 16];
    for (a, b) in a.as_chunks::<16>().0.iter().zip(b.as_chunks::<16>().0) {
        for (lane, (a, b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += a * b;
        }
    }
    lanes.iter().sum()
}

/// The tensors of the model by name; the file stores numbers in half precision.
pub struct Tensors(HashMap<String, Matrix>);

impl Tensors {
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let file = SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?;
        let mut all = HashMap::new();
        for (name, view) in file.tensors() {
            let columns = view.shape().last().copied().unwrap_or(1);
            let values = match view.dtype() {
                Dtype::F16 => view.data().as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
                Dtype::F32 => view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
                other => return Err(format!("{name} is {other:?}")),
            };
            all.insert(name, Matrix { values, columns });
        }
        Ok(Self(all))
    }

    pub fn take(&mut self, name: &str, rows: usize, columns: usize) -> Result<Matrix, String> {
        let matrix = self.0.remove(name).ok_or(format!("{name} is missing"))?;
        if (matrix.rows(), matrix.columns) == (rows, columns) {
            return Ok(matrix);
        }
        Err(format!("{name} is {}x{}, {rows}x{columns} is expected", matrix.rows(), matrix.columns))
    }

    /// Takes a table; it may have any number of rows.
    fn take_table(&mut self, name: &str) -> Result<Matrix, String> {
        let matrix = self.0.remove(name).ok_or(format!("{name} is missing"))?;
        if matrix.rows() == 0 || matrix.columns != WIDTH {
            return Err(format!("{name} has {} columns, {WIDTH} are expected", matrix.columns));
        }
        Ok(matrix)
    }
}

/// Maxout layer: the largest of each unit's pieces, then layer normalisation over the row.
struct Maxout {
    weight: Matrix,
    bias: Matrix,
    gain: Matrix,
    shift: Matrix,
}

impl Maxout {
    fn take(tensors: &mut Tensors, name: &str, inputs: usize) -> Result<Self, String> {
        Ok(Self {
            weight: tensors.take(&format!("{name}.weight"), WIDTH * PIECES, inputs)?,
            bias: tensors.take(&format!("{name}.bias"), 1, WIDTH * PIECES)?,
            gain: tensors.take(&format!("{name}.norm.weight"), 1, WIDTH)?,
            shift: tensors.take(&format!("{name}.norm.bias"), 1, WIDTH)?,
        })
    }

    fn apply(&self, x: &[f32]) -> Vec<f32> {
        let pieces = self.weight.apply(x, Some(&self.bias));
        let mut out: Vec<f32> =
            pieces.chunks_exact(PIECES).map(|p| p.iter().copied().fold(f32::NEG_INFINITY, f32::max)).collect();
        for row in out.chunks_exact_mut(WIDTH) {
            let mean = row.iter().sum::<f32>() / WIDTH as f32;
            let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / WIDTH as f32 + 1e-8;
            let scale = 1.0 / variance.sqrt();
            for (v, (gain, shift)) in row.iter_mut().zip(self.gain.values.iter().zip(&self.shift.values)) {
                *v = (*v - mean) * scale * gain + shift;
            }
        }
        out
    }
}

/// Computes a vector for each word, which depends on the neighbouring words.
pub struct Encoder {
    tables: Vec<Matrix>,
    mix: Maxout,
    convolutions: Vec<Maxout>,
    symbols: HashMap<String, u64>,
}

impl Encoder {
    pub fn take(tensors: &mut Tensors, rules: &mut Rules) -> Result<Self, String> {
        let tables = (0..TABLES).map(|i| tensors.take_table(&format!("embed.{i}"))).collect::<Result<_, _>>()?;
        let convolution = |i| Maxout::take(tensors, &format!("convolution.{i}"), 3 * WIDTH);
        let convolutions = (0..DEPTH).map(convolution).collect::<Result<_, _>>()?;
        let mix = Maxout::take(tensors, "mix", TABLES * WIDTH)?;
        Ok(Self { tables, mix, convolutions, symbols: std::mem::take(&mut rules.symbols) })
    }

    /// Vectors of the tokens, `[tokens, WIDTH]`.
    pub fn encode(&self, tokens: &[Token]) -> Vec<f32> {
        let mut embedded = vec![0f32; tokens.len() * TABLES * WIDTH];
        for (token, row) in tokens.iter().zip(embedded.chunks_exact_mut(TABLES * WIDTH)) {
            for (table, part) in row.chunks_exact_mut(WIDTH).enumerate() {
                let matrix = &self.tables[table];
                for hash in murmur3(self.attribute(token, table), 8 + table as u32) {
                    let row = matrix.row(hash as usize % matrix.rows());
                    part.iter_mut().zip(row).for_each(|(sum, v)| *sum += v);
                }
            }
        }
        // zero vectors on both sides, as many as the convolutions reach
        let mut x = vec![0f32; (tokens.len() + 2 * DEPTH) * WIDTH];
        let words = DEPTH * WIDTH..(DEPTH + tokens.len()) * WIDTH;
        x[words.clone()].copy_from_slice(&self.mix.apply(&embedded));
        for convolution in &self.convolutions {
            let windows = windows(&x);
            x.iter_mut().zip(convolution.apply(&windows)).for_each(|(x, y)| *x += y);
        }
        x[words].to_vec()
    }

    fn attribute(&self, token: &Token, table: usize) -> u64 {
        let id = |text: &str| match self.symbols.get(text) {
            _ if text.is_empty() => 0,
            Some(symbol) => *symbol,
            None => murmur2(text.as_bytes(), 1),
        };
        let count = token.text.chars().count();
        match table {
            0 => id(&token.norm),
            1 => id(&token.text.chars().take(1).collect::<String>()),
            2 => id(&token.text.chars().skip(count.saturating_sub(3)).collect::<String>()),
            3 => id(&shape(&token.text)),
            4 => u64::from(token.space),
            _ => u64::from(token.is_space()),
        }
    }
}

/// Joins every row with the row before and the row after: `[n, WIDTH]` → `[n, 3·WIDTH]`.
fn windows(x: &[f32]) -> Vec<f32> {
    let rows: Vec<&[f32]> = x.chunks_exact(WIDTH).collect();
    let nothing = [0f32; WIDTH];
    let mut out = Vec::with_capacity(3 * x.len());
    for (i, row) in rows.iter().enumerate() {
        out.extend_from_slice(if i == 0 { &nothing } else { rows[i - 1] });
        out.extend_from_slice(row);
        out.extend_from_slice(rows.get(i + 1).copied().unwrap_or(&nothing));
    }
    out
}

/// Shape of a word, `Apple-5s` → `Xxxxx-dx`: letters and digits are replaced by their kind, and runs of more than four
/// are shortened.
fn shape(text: &str) -> String {
    if text.chars().count() >= 100 {
        return "LONG".into();
    }
    let (mut shape, mut last, mut run) = (String::new(), None, 0);
    for c in text.chars() {
        let kind = match c {
            _ if c.is_alphabetic() && c.is_uppercase() => 'X',
            _ if c.is_alphabetic() => 'x',
            _ if is_digit(c) => 'd',
            _ => c,
        };
        run = if last == Some(kind) { run + 1 } else { 0 };
        last = Some(kind);
        if run < 4 {
            shape.push(kind);
        }
    }
    shape
}

/// Whether a character is a digit for Python's `str.isdigit`: also superscript, subscript and circled digits, but no
/// fractions and no numerals.
fn is_digit(c: char) -> bool {
    match c {
        '0'..='9' | '²' | '³' | '¹' | '⁰' | '⁴'..='⁹' | '₀'..='₉' | '①'..='⑨' | '⑴'..='⑼' | '⒈'..='⒐' => {
            true
        }
        _ if c.is_ascii() || c.is_alphabetic() => false,
        '¼'..='¾' | '⅐'..='\u{218b}' | '⑩'..='⒛' | '〇' | '〡'..='〩' => false,
        _ => c.is_numeric(),
    }
}
