//! Separates the things in an image from the ground.

use images::Image;

/// A colour or a difference of two; red, green and blue, 0 to 1.
pub type Rgb = [f32; 3];

pub fn minus(a: Rgb, b: Rgb) -> Rgb {
    std::array::from_fn(|c| a[c] - b[c])
}

pub fn dot(a: Rgb, b: Rgb) -> f32 {
    (0..3).map(|c| a[c] * b[c]).sum()
}

pub fn distance(a: Rgb, b: Rgb) -> f32 {
    let d = minus(a, b);
    dot(d, d).sqrt()
}

/// An image as floats, row by row.
pub struct Pixels {
    pub width: usize,
    pub height: usize,
    pub values: Vec<Rgb>,
}

impl From<&Image> for Pixels {
    fn from(image: &Image) -> Self {
        let values = image.pixels.chunks_exact(3).map(|p| std::array::from_fn(|c| f32::from(p[c]) / 255.0)).collect();
        Self { width: image.width, height: image.height, values }
    }
}

impl Pixels {
    /// The median of the outermost two rows and columns, for each channel separately.
    pub fn ground(&self) -> Rgb {
        let at_edge = |i: &usize| {
            let (x, y) = (i % self.width, i / self.width);
            x < 2 || y < 2 || x + 2 >= self.width || y + 2 >= self.height
        };
        let edge: Vec<usize> = (0..self.values.len()).filter(at_edge).collect();
        std::array::from_fn(|c| {
            let mut values: Vec<f32> = edge.iter().map(|i| self.values[*i][c]).collect();
            values.sort_by(f32::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or(1.0)
        })
    }

    /// Pixels further than `least` from a colour.
    pub fn apart_from(&self, color: Rgb, least: f32) -> Mask {
        let on = self.values.iter().map(|v| distance(*v, color) > least).collect();
        Mask { width: self.width, height: self.height, on }
    }

    /// Each pixel is the mean of the 3x3 pixels around it; at the edge, of those that exist.
    pub fn smoothed(&self) -> Self {
        let mean = |i: usize| {
            let near = around(self.width, self.height, i);
            let count = near.len() as f32;
            let sum = near.iter().fold([0.0; 3], |sum, j| std::array::from_fn(|c| sum[c] + self.values[*j][c]));
            sum.map(|v: f32| v / count)
        };
        Self { width: self.width, height: self.height, values: (0..self.values.len()).map(mean).collect() }
    }
}

/// A pixel and its neighbours, including diagonal ones.
fn around(width: usize, height: usize, i: usize) -> Vec<usize> {
    let (x, y) = (i % width, i / width);
    let rows = y.saturating_sub(1)..(y + 2).min(height);
    rows.flat_map(|y| (x.saturating_sub(1)..(x + 2).min(width)).map(move |x| y * width + x)).collect()
}

/// A set of pixels.
#[derive(Clone)]
pub struct Mask {
    pub width: usize,
    pub height: usize,
    pub on: Vec<bool>,
}

impl Mask {
    pub fn area(&self) -> usize {
        self.on.iter().filter(|on| **on).count()
    }

    pub fn pixels(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.on.len()).filter(|i| self.on[*i])
    }

    /// Position of the centre of pixel `i`, in pixels from the left and from the top.
    pub fn place(&self, i: usize) -> (f32, f32) {
        ((i % self.width) as f32 + 0.5, (i / self.width) as f32 + 0.5)
    }

    /// The mean position of its pixels.
    pub fn middle(&self) -> (f32, f32) {
        let count = self.area().max(1) as f32;
        let (x, y) = self.pixels().map(|i| self.place(i)).fold((0.0, 0.0), |(x, y), (px, py)| (x + px, y + py));
        (x / count, y / count)
    }

    fn with(&self, on: impl Fn(usize) -> bool) -> Self {
        Self { width: self.width, height: self.height, on: (0..self.on.len()).map(on).collect() }
    }

    /// The pixels that satisfy a condition.
    pub fn filter(&self, holds: impl Fn(usize) -> bool) -> Self {
        self.with(|i| self.on[i] && holds(i))
    }

    pub fn without(&self, other: &Self) -> Self {
        self.filter(|i| !other.on[i])
    }

    /// Dilation: adds all neighbouring pixels, `times` times.
    pub fn grown(&self, times: usize) -> Self {
        (0..times).fold(self.clone(), |mask, _| {
            let mut grown = mask.clone();
            for i in mask.pixels() {
                around(mask.width, mask.height, i).into_iter().for_each(|j| grown.on[j] = true);
            }
            grown
        })
    }

    /// Erosion: removes the pixels next to its outside, `times` times.
    pub fn shrunk(&self, times: usize) -> Self {
        let outside = self.with(|i| !self.on[i]).grown(times);
        self.with(|i| !outside.on[i])
    }

    /// Its connected pieces, the largest first. Pixels that only touch diagonally are not connected.
    pub fn pieces(&self) -> Vec<Self> {
        let mut left = self.clone();
        let mut pieces = vec![];
        for start in self.pixels() {
            if !left.on[start] {
                continue;
            }
            let mut piece = self.with(|_| false);
            left.on[start] = false;
            let mut to_visit = vec![start];
            while let Some(i) = to_visit.pop() {
                piece.on[i] = true;
                let (x, y) = (i % self.width, i / self.width);
                let neighbours = [
                    (x > 0).then(|| i - 1),
                    (x + 1 < self.width).then(|| i + 1),
                    (y > 0).then(|| i - self.width),
                    (y + 1 < self.height).then(|| i + self.width),
                ];
                for j in neighbours.into_iter().flatten() {
                    if std::mem::take(&mut left.on[j]) {
                        to_visit.push(j);
                    }
                }
            }
            pieces.push(piece);
        }
        pieces.sort_by_key(|piece| std::cmp::Reverse(piece.area()));
        pieces
    }

    /// The mask with its holes filled.
    pub fn filled(&self) -> Self {
        let mut filled = self.clone();
        let at_edge = |i: usize| {
            let (x, y) = (i % self.width, i / self.width);
            x == 0 || y == 0 || x + 1 == self.width || y + 1 == self.height
        };
        for gap in self.with(|i| !self.on[i]).pieces() {
            if !gap.pixels().any(at_edge) {
                gap.pixels().for_each(|i| filled.on[i] = true);
            }
        }
        filled
    }
}
