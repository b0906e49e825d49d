//! A segmenter for the attention losses: finds the pixels of shapes by the judge's outlines.

use crate::{judge, scene::Shape};
use anyhow::Result;
use diffusion::segment::Segmenter;
use images::Image;
use tch::{Device, Kind, Tensor};

/// Finds shapes by their outlines, without a network. A noun that is not a shape of this world is never found.
pub struct Judged;

impl Segmenter for Judged {
    fn segment(&self, images: &Tensor, nouns: &[Vec<String>]) -> Result<Vec<Tensor>> {
        let (_, _, height, width) = images.size4()?;
        let images = images.to_device(Device::Cpu).to_kind(Kind::Float);
        let each = nouns.iter().enumerate().map(|(row, nouns)| {
            let outlines =
                if nouns.is_empty() { vec![] } else { judge::outlines(&Image::from_tensor(&images.get(row as i64))?) };
            let mask = |noun: &String| {
                let shape = Shape::of_noun(&noun.to_lowercase());
                let mut mask = vec![false; (height * width) as usize];
                for (_, covered) in outlines.iter().filter(|(found, _)| found.is_some() && *found == shape) {
                    mask.iter_mut().zip(covered).for_each(|(on, covered)| *on |= covered);
                }
                mask
            };
            let masks: Vec<bool> = nouns.iter().flat_map(mask).collect();
            Ok(Tensor::from_slice(&masks).view([nouns.len() as i64, height, width]))
        });
        each.collect()
    }
}
