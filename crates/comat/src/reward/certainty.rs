//! Reward: how certain a captioner is of what the prompt leaves open.
//!
//! The likelihood of `a striped star` says nothing about the star's colour, so what follows it may draw colours that have
//! no name. Here each word of a list (of colours, say) is put before each noun that has none of them: `a striped red star`.
//! If one of these captions is far likelier than the others, then there is a colour, whichever it is.

use super::{Gradient, ImageReward, PerImage, Seen};
use anyhow::{Context, Result};
use captioners::Likelihood;
use diffusion::{prompts::Prompt, resident::Resident};
use entities::{Entity, Mode, Parser};
use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::HashMap,
    rc::Rc,
};
use tch::{Device, Kind, Tensor};

/// The mean, over the places that a prompt leaves open, of the log-probability of the likeliest word there among the words of
/// its list: from -log of their number to 0. It is 0 where nothing is open.
pub struct Certainty {
    reward: PerImage<Asked>,
    places: Rc<Places>,
}

/// A captioner, and what it is asked.
struct Asked {
    captioner: Box<dyn Likelihood>,
    places: Rc<Places>,
}

/// Opens the captioner in the configured folder. `lists`: words of which an object has one at most.
///
/// # Errors
/// The folder is missing, or holds another network.
pub fn open(
    name: &str,
    captioner: config::Captioner,
    lists: &[Vec<String>],
    kind: Kind,
    device: Device,
) -> Result<Certainty> {
    let places = Rc::new(Places { lists: lists.to_vec(), ..Places::default() });
    let (asked, micro_batch) = (places.clone(), captioner.micro_batch.samples());
    let network = Resident::open(move || {
        let path = captioner.path.display();
        let captioner = captioners::open(&captioner, kind, device).with_context(|| format!("captioner {path}"))?;
        Ok(Asked { captioner, places: asked.clone() })
    })?;
    Ok(Certainty { reward: PerImage::new(name, network, certainty, kind).in_micro_batches(micro_batch), places })
}

impl ImageReward for Certainty {
    fn name(&self) -> &str {
        self.reward.name()
    }

    fn values(&self, images: &Tensor, prompts: &[&str]) -> Result<Vec<f64>> {
        self.reward.values(images, prompts)
    }

    fn gradient(&self, seen: &Seen) -> Result<Gradient> {
        self.reward.gradient(seen)
    }

    fn take_entities(&mut self, prompts: &[Prompt], mode: Mode) -> Result<()> {
        self.places.mode.set(mode);
        for prompt in prompts {
            if let Some(entities) = prompt.found()? {
                self.places.learn(&prompt.text, &entities);
            }
        }
        Ok(())
    }

    fn offload(&mut self) {
        self.reward.offload();
    }
}

/// `[b]`
fn certainty(Asked { captioner, places }: &Asked, images: &Tensor, prompts: &[&str]) -> Result<Tensor> {
    let (mut texts, mut of, mut open) = (vec![], vec![], vec![]);
    for (row, prompt) in (0..).zip(prompts) {
        let found = places.of(prompt)?;
        for place in found.iter() {
            open.push((texts.len() as i64, place.len() as i64, row, found.len() as f64));
            of.extend(place.iter().map(|_| row));
            texts.extend(place.clone());
        }
    }
    // the same graph for images of which nothing is asked
    let nothing = images.flatten(1, -1).sum_dim_intlist(1, false, images.kind()) * 0.0;
    if texts.is_empty() {
        return Ok(nothing);
    }
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let likelihood = -captioner.nll_of(images, &of, &texts)?.sum;
    let best = |&(start, words, _, places): &(i64, i64, i64, f64)| {
        likelihood.narrow(0, start, words).log_softmax(0, likelihood.kind()).max() / places
    };
    let best = Tensor::stack(&open.iter().map(best).collect::<Vec<_>>(), 0).to_kind(nothing.kind());
    let rows: Vec<i64> = open.iter().map(|place| place.2).collect();
    Ok(nothing.index_add(0, &Tensor::from_slice(&rows).to_device(images.device()), &best))
}

/// The captions with a word at a place, one for each word of a list.
type Captions = Vec<String>;

/// The open places of prompts: of the entities that a prompt file names, else of those that the parser finds.
#[derive(Default)]
struct Places {
    lists: Vec<Vec<String>>,
    mode: Cell<Mode>,
    known: RefCell<HashMap<String, Rc<Vec<Captions>>>>,
    parser: OnceCell<Parser>,
}

impl Places {
    fn of(&self, prompt: &str) -> Result<Rc<Vec<Captions>>> {
        if let Some(known) = self.known.borrow().get(prompt) {
            return Ok(known.clone());
        }
        let parser = match self.parser.get() {
            Some(parser) => parser,
            None => {
                let shipped = Parser::shipped()?;
                self.parser.get_or_init(|| shipped)
            }
        };
        Ok(self.learn(prompt, &parser.entities(prompt, self.mode.get())))
    }

    fn learn(&self, prompt: &str, entities: &[Entity]) -> Rc<Vec<Captions>> {
        let open =
            entities.iter().flat_map(|entity| self.lists.iter().filter_map(|list| captions(prompt, entity, list)));
        let open: Rc<Vec<Captions>> = Rc::new(open.collect());
        self.known.borrow_mut().insert(prompt.to_owned(), open.clone());
        open
    }
}

/// The prompt with each of the words before the noun. `None`: one of them is there already.
fn captions(prompt: &str, entity: &Entity, words: &[String]) -> Option<Captions> {
    let is = |word: &String, text: &str| word.eq_ignore_ascii_case(text);
    let mut named = entity.parts().filter_map(|part| prompt.get(part.clone()));
    if named.any(|part| words.iter().any(|word| is(word, part))) {
        return None;
    }
    let (before, noun) = prompt.split_at_checked(entity.whole().start)?;
    Some(words.iter().map(|word| format!("{before}{word} {noun}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use diffusion::prompts::Entity as Named;

    fn places(lists: &[&[&str]]) -> Places {
        let words = |list: &&[&str]| list.iter().map(|word| (*word).to_owned()).collect();
        Places { lists: lists.iter().map(words).collect(), mode: Cell::new(Mode::Repaired), ..Places::default() }
    }

    const COLORS: &[&str] = &["red", "blue"];
    const TEXTURES: &[&str] = &["solid", "striped"];

    #[test]
    fn words_stand_before_nouns_that_have_none_of_them() {
        let places = places(&[COLORS, TEXTURES]);
        let of = |prompt: &str| places.of(prompt).unwrap().to_vec();
        assert_eq!(
            of("a Red dog and a striped fire truck"),
            [
                ["a Red solid dog and a striped fire truck", "a Red striped dog and a striped fire truck"],
                ["a Red dog and a striped red fire truck", "a Red dog and a striped blue fire truck"],
            ]
        );
        assert!(of("a solid red dog").is_empty());
        assert_eq!(of("two dogs").len(), 2);
        assert_eq!(of("quietly"), Vec::<Captions>::new());
    }

    /// What a prompt file says of a prompt counts, and not what the parser would find.
    #[test]
    fn named_entities_win() {
        let places = places(&[COLORS]);
        let named = Named { noun: "owl".into(), attributes: vec![] };
        let prompt = Prompt { entities: Some(vec![named]), ..Prompt::from("a dog and an owl") };
        places.learn(&prompt.text, &prompt.found().unwrap().unwrap());
        assert_eq!(*places.of("a dog and an owl").unwrap(), [["a dog and an red owl", "a dog and an blue owl"]]);
    }

    /// Likelihoods by a rule: a text is as likely as the image is bright for `red`, and dark for `blue`.
    struct Bright;

    impl Likelihood for Bright {
        fn kind(&self) -> Kind {
            Kind::Double
        }

        fn nll(&self, images: &Tensor, texts: &[&str]) -> Result<captioners::Nll> {
            let sign: Vec<f64> = texts.iter().map(|text| if text.contains("red") { -1.0 } else { 1.0 }).collect();
            let sum = images.mean_dim([1i64, 2, 3].as_slice(), false, Kind::Double) * Tensor::from_slice(&sign);
            let zero = sum.zeros_like();
            let tokens = Tensor::from_slice(&vec![1i64; texts.len()]);
            Ok(captioners::Nll { sum, uniform: zero.copy(), tokens, end: [zero.copy(), zero] })
        }

        fn tokens(&self, texts: &[&str]) -> Result<Vec<i64>> {
            Ok(vec![1; texts.len()])
        }
    }

    /// The mean over places of the log-probability of the likeliest word, of each image its own; 0 where nothing is open.
    #[test]
    fn the_likeliest_word_of_each_place() {
        let asked = Asked { captioner: Box::new(Bright), places: Rc::new(places(&[COLORS])) };
        let brightness = [0.0, 2.0, 7.0, -1.0];
        let images = Tensor::from_slice(&brightness).view([4, 1, 1, 1]).expand([4, 3, 2, 2], false);
        let images = images.copy().set_requires_grad(true);
        let prompts = ["a dog", "a dog and a cat", "a red dog", "a blue dog and a cat"];
        let found = certainty(&asked, &images, &prompts).unwrap();
        let likeliest = |b: f64| b.abs() - (b.exp() + (-b).exp()).ln();
        for (row, expected) in [likeliest(0.0), likeliest(2.0), 0.0, likeliest(-1.0)].iter().enumerate() {
            assert!((found.double_value(&[row as i64]) - expected).abs() < 1e-12, "{row}");
        }
        // brighter is surer where it is bright, and the other way round where it is dark
        found.sum(Kind::Double).backward();
        let slopes = images.grad().sum_dim_intlist([1i64, 2, 3].as_slice(), false, Kind::Double);
        let slope = |row| slopes.double_value(&[row]);
        assert!(slope(1) > 0.01 && slope(2) == 0.0 && slope(3) < -0.01, "{slopes}");
    }

    #[test]
    fn only_what_is_open_has_a_graph_of_its_own() {
        let asked = Asked { captioner: Box::new(Bright), places: Rc::new(places(&[COLORS])) };
        let images = Tensor::ones([1, 3, 2, 2], (Kind::Double, Device::Cpu)).set_requires_grad(true);
        let found = certainty(&asked, &images, &["a red dog"]).unwrap();
        found.sum(Kind::Double).backward();
        assert_eq!(images.grad().abs().sum(Kind::Double).double_value(&[]), 0.0);
    }
}
