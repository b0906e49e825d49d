//! DPG-Bench: four images of a prompt in one file, and categories of questions (ELLA, dpg_bench/compute_dpg_bench.py).

/// Left, top, right and bottom of the four images in a two by two grid, row by row. Each image is `side` pixels wide
/// and high.
pub fn quarters(side: u32) -> [[u32; 4]; 4] {
    let end = side.saturating_mul(2);
    [[0, 0, side, side], [side, 0, end, side], [0, side, side, end], [side, side, end, end]]
}

/// Score of the benchmark in per cent: the mean over prompts of the mean over a prompt's images. NaN without prompts.
pub fn score(prompts: &[Vec<f64>]) -> f64 {
    let mean = |values: &mut dyn ExactSizeIterator<Item = f64>| {
        let number = values.len() as f64;
        values.sum::<f64>() / number
    };
    100.0 * mean(&mut prompts.iter().map(|images| mean(&mut images.iter().copied())))
}

/// Broad and detailed category of a question, from its tuple: `attribute` and `attribute - color` for `attribute -
/// color (cube, red)`.
pub fn categories(tuple: &str) -> (&str, &str) {
    let detailed = tuple.split('(').next().unwrap_or(tuple).trim();
    (detailed.split('-').next().unwrap_or(detailed).trim(), detailed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_images() {
        assert_eq!(quarters(512)[1], [512, 0, 1024, 512]);
        assert_eq!(quarters(512)[2], [0, 512, 512, 1024]);
        assert_eq!(score(&[vec![1.0, 0.5, 0.5, 0.0], vec![1.0; 4]]), 75.0);
        assert!(score(&[]).is_nan());
    }

    #[test]
    fn categories_of_questions() {
        assert_eq!(categories("attribute - color (rubix cube, purple)"), ("attribute", "attribute - color"));
        assert_eq!(categories("global"), ("global", "global"));
    }
}
