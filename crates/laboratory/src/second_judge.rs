//! A judge that looks at images in another way than [`scenes::judge`], which reads them from their pixels: a captioner
//! that no training has used. An image passes if its prompt is likelier than every caption with one fault.

use anyhow::Result;
use comat::loss::caption::CaptionLoss;
use images::Image;
use indicatif::ProgressBar;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use ranks::interrupt::Interrupt;
use scenes::{
    judging::Judged,
    scene::{Color, Shape, Texture},
    wording::{Demand, Wanted},
};
use std::{collections::BTreeSet, path::Path};
use tch::{Device, Kind, Tensor};

pub struct SecondJudge(CaptionLoss);

impl SecondJudge {
    /// `captioner`: a folder as `comat world pretrain captioner` writes it.
    pub fn open(captioner: &Path, device: Device) -> Result<Self> {
        Ok(Self(CaptionLoss::open(&config::Captioner::at(captioner.to_owned()), Kind::Float, device)?))
    }

    /// Judges the images of a folder that were judged before, and adds the result.
    ///
    /// # Errors
    /// An image that cannot be read any more; Ctrl-C.
    pub fn judge(
        &self,
        images: &mut [Judged],
        folder: &Path,
        device: Device,
        bar: &ProgressBar,
        interrupt: &Interrupt,
    ) -> Result<()> {
        bar.set_length(images.len() as u64);
        for judged in images {
            interrupt.check()?;
            let image = Image::open(&folder.join(&judged.file))?.tensor()?.unsqueeze(0).to_device(device);
            judged.second = Demand::parse(&judged.prompt).map(|demand| self.passes(&image, &demand)).transpose()?;
            bar.inc(1);
        }
        Ok(())
    }

    /// `image`: `[1, 3, 64, 64]` in 0..1.
    fn passes(&self, image: &Tensor, demand: &Demand) -> Result<bool> {
        let _guard = tch::no_grad_guard();
        let captions = captions(demand);
        let captions: Vec<&str> = captions.iter().map(String::as_str).collect();
        let count = captions.len();
        let images = image.expand([count as i64, -1, -1, -1], false);
        let nll =
            Vec::<f64>::try_from(self.0.nll(&images, &captions, &vec![(0, 0); count])?.sum.to_kind(Kind::Double))?;
        Ok(nll[1..].iter().all(|wrong| nll[0] < *wrong))
    }
}

/// The caption of a demand, then all that differ from it in one way, in the same wording: another colour, texture or
/// shape of one object, colours or textures of two exchanged, an object less, an object more.
fn captions(demand: &Demand) -> Vec<String> {
    let mut wrong = vec![];
    let mut add = |wanted: Vec<Wanted>| wrong.push(Demand { wanted, relation: demand.relation });
    let all = &demand.wanted;
    for (i, one) in all.iter().enumerate() {
        let mut with = |other: Wanted| {
            let mut changed = all.clone();
            changed[i] = other;
            add(changed);
        };
        Shape::ALL.iter().for_each(|shape| with(Wanted { shape: *shape, ..*one }));
        if one.color.is_some() {
            Color::ALL.iter().for_each(|color| with(Wanted { color: Some(*color), ..*one }));
        }
        if one.texture.is_some() {
            Texture::ALL.iter().for_each(|texture| with(Wanted { texture: Some(*texture), ..*one }));
        }
        if one.count < 3 {
            with(Wanted { count: one.count + 1, ..*one });
        }
        if one.count > 1 {
            with(Wanted { count: one.count - 1, ..*one });
        } else if all.len() > 1 {
            let mut fewer = all.clone();
            fewer.remove(i);
            add(fewer);
        }
        for j in 0..i {
            let mut swapped = all.clone();
            (swapped[i].color, swapped[j].color) = (all[j].color, all[i].color);
            add(swapped);
            let mut swapped = all.clone();
            (swapped[i].texture, swapped[j].texture) = (all[j].texture, all[i].texture);
            add(swapped);
        }
    }
    if demand.total() < 3 && demand.relation.is_none() {
        let like = all.first().copied().unwrap_or(Wanted::one(Shape::ALL[0], None, None));
        for (i, shape) in Shape::ALL.iter().enumerate() {
            let color = like.color.map(|_| Color::ALL[i % Color::ALL.len()]);
            let texture = like.texture.map(|_| Texture::ALL[i % Texture::ALL.len()]);
            let mut more = all.clone();
            more.push(Wanted::one(*shape, color, texture));
            add(more);
        }
    }
    let words = |demand: &Demand| demand.words(&mut ChaCha8Rng::seed_from_u64(0));
    let right = words(demand);
    let same = |other: &Demand| key(other) == key(demand);
    let wrong: BTreeSet<String> = wrong.iter().filter(|other| !same(other)).map(words).collect();
    [right].into_iter().chain(wrong).collect()
}

/// A demand whatever the order of its objects.
fn key(demand: &Demand) -> Vec<String> {
    let mut all: Vec<String> =
        demand.wanted.iter().flat_map(|w| vec![format!("{:?}", Wanted { count: 1, ..*w }); w.count]).collect();
    all.sort();
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use scenes::{render, staging};

    #[test]
    fn captions_with_one_fault() {
        let all = captions(&Demand::parse("a red star and a blue circle").unwrap());
        assert_eq!(all[0], "a red star and a blue circle");
        let wrong: BTreeSet<&str> = all[1..].iter().map(String::as_str).collect();
        for caption in [
            "a blue star and a red circle",
            "a red star",
            "a blue circle",
            "a red star and a green circle",
            "a red heart and a blue circle",
            "two red stars and a blue circle",
        ] {
            assert!(wrong.contains(caption), "{caption}: {wrong:?}");
        }
        assert!(wrong.iter().any(|caption| caption.matches(" a ").count() == 2), "an object more: {wrong:?}");
        assert!(!wrong.contains("a red star and a blue circle") && wrong.len() == all.len() - 1);
        // an exchange of equals is no fault
        let same = captions(&Demand::parse("a red star and a red circle").unwrap());
        assert!(!same[1..].contains(&"a red circle and a red star".to_owned()) && !same[1..].contains(&same[0]));
        assert!(captions(&Demand::parse("a striped star").unwrap()).len() > 6);
    }

    #[test]
    fn renders_of_a_prompt_pass_and_others_do_not() {
        let judge =
            SecondJudge::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../weights/world/blip"), Device::Cpu)
                .unwrap();
        let image = |text: &str| {
            let scene = staging::scene_for(&Demand::parse(text).unwrap(), &mut ChaCha8Rng::seed_from_u64(5)).unwrap();
            render::image(&scene).tensor().unwrap().unsqueeze(0)
        };
        let asked = Demand::parse("a red star and a blue circle").unwrap();
        let passes = |text: &str| judge.passes(&image(text), &asked).unwrap();
        assert!(passes("a red star and a blue circle"));
        for other in ["a blue star and a red circle", "a red star", "a red star, a blue circle and a green heart"] {
            assert!(!passes(other), "{other}");
        }
    }
}
