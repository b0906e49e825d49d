use anyhow::Result;
use tch::{Kind, Tensor};

/// Numbers of every rank, in a buffer whose sum over the ranks holds all of them: a rank sets the others' rows to zero.
/// A number is split into two float32 values, which together keep 48 bits.
pub struct Table {
    pub ranks: usize,
    pub columns: usize,
}

impl Table {
    pub fn with_row(&self, rank: usize, figures: &[f64]) -> Tensor {
        let mut values = vec![0f32; self.ranks * self.columns * 2];
        for (column, figure) in figures.iter().enumerate() {
            let high = *figure as f32;
            let rest = (*figure - f64::from(high)) as f32;
            let at = (rank * self.columns + column) * 2;
            values[at] = high;
            values[at + 1] = if rest.is_finite() { rest } else { 0.0 };
        }
        Tensor::from_slice(&values)
    }

    pub fn rows(&self, buffer: &Tensor) -> Result<Vec<Vec<f64>>> {
        let values: Vec<f64> = Vec::try_from(&buffer.to_kind(Kind::Double))?;
        let figures: Vec<f64> = values.chunks(2).map(|parts| parts.iter().sum()).collect();
        Ok((0..self.ranks).map(|rank| figures[rank * self.columns..][..self.columns].to_vec()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_arrive_whole() {
        let table = Table { ranks: 3, columns: 2 };
        let rows = [[1.0 / 3.0, 12_345_678_901.0], [-2e-9, 0.0], [f64::NAN, f64::INFINITY]];
        let sum = rows.iter().enumerate().fold(Tensor::from(0f32), |sum, (rank, row)| sum + table.with_row(rank, row));
        let seen = table.rows(&sum).unwrap();
        for (row, seen) in rows.iter().zip(seen).take(2) {
            row.iter().zip(seen).for_each(|(a, b)| assert!((a - b).abs() <= a.abs() * 1e-14, "{a} {b}"));
        }
        assert!(table.rows(&sum).unwrap()[2][0].is_nan());
    }
}
