//! Short explanations of why an image does not match its prompt.

use scenes::{
    judge::{Found, Look, Verdict},
    wording::{Demand, Wanted},
};

/// Largest number of reasons that are given.
const MOST: usize = 3;

/// A text such as `no red star, heart is blue, 1 extra`; `as asked` for a correct image.
pub fn reason(prompt: &str, look: &Look, verdict: &Verdict) -> String {
    if verdict.correct {
        return "as asked".into();
    }
    let mut reasons = Demand::parse(prompt).map_or(vec![], |demand| objects(&demand, look));
    if verdict.relation == Some(false) && verdict.bound == verdict.wanted {
        reasons.push("in the wrong place".into());
    }
    if verdict.extra > 0 {
        reasons.push(format!("{} extra", verdict.extra));
    }
    if !verdict.clean {
        reasons.push("not a clean shape".into());
    }
    reasons.truncate(MOST);
    if reasons.is_empty() { "not as asked".into() } else { reasons.join(", ") }
}

/// The faults of each requested object. Objects that are right are matched first, then those of the right shape.
fn objects(demand: &Demand, look: &Look) -> Vec<String> {
    let mut free: Vec<&Found> = look.found.iter().collect();
    let mut take = |fits: &dyn Fn(&Found) -> bool| -> Option<Found> {
        let place = free.iter().position(|f| fits(f))?;
        Some(free.remove(place).clone())
    };
    let mut wanted: Vec<&Wanted> = demand.wanted.iter().flat_map(|w| std::iter::repeat_n(w, w.count)).collect();
    wanted.retain(|w| take(&|found| fits(w, found)).is_none());
    wanted
        .into_iter()
        .map(|w| match take(&|found| found.shape == Some(w.shape)) {
            Some(found) => format!("{} is {}", w.shape, faults(w, &found)),
            None if w.count > 1 => format!("a {} is missing", name(w)),
            None => format!("no {}", name(w)),
        })
        .collect()
}

fn fits(wanted: &Wanted, found: &Found) -> bool {
    found.shape == Some(wanted.shape)
        && wanted.color.is_none_or(|c| found.color == Some(c))
        && wanted.texture.is_none_or(|t| found.texture == Some(t))
}

fn faults(wanted: &Wanted, found: &Found) -> String {
    let mut faults = vec![];
    if wanted.color.is_some() && wanted.color != found.color {
        faults.push(found.color.map_or("of unclear colour", |c| c.word()));
    }
    if wanted.texture.is_some() && wanted.texture != found.texture {
        faults.push(found.texture.map_or("of unclear texture", |t| t.word()));
    }
    faults.join(" and ")
}

fn name(wanted: &Wanted) -> String {
    let words = [wanted.color.map(|c| c.word()), wanted.texture.map(|t| t.word()), Some(wanted.shape.word())];
    words.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use scenes::scene::{Color, Shape, Texture};

    fn found(shape: Shape, color: Option<Color>, texture: Option<Texture>) -> Found {
        Found { shape: Some(shape), color, texture, center: (32.0, 32.0), area: 300 }
    }

    fn told(prompt: &str, found: Vec<Found>, edit: impl FnOnce(&mut Verdict)) -> String {
        let mut verdict =
            Verdict { wanted: 2, present: 2, bound: 1, relation: None, extra: 0, clean: true, correct: false };
        edit(&mut verdict);
        reason(prompt, &Look { found, specks: 0, unexplained: 0.0 }, &verdict)
    }

    #[test]
    fn reasons_name_the_object() {
        use {Color::*, Shape::*};
        let plain = |shape, color| found(shape, Some(color), Some(Texture::Solid));
        let prompt = "a red star and a blue heart";
        assert_eq!(told(prompt, vec![plain(Star, Red), plain(Heart, Blue)], |v| v.correct = true), "as asked");
        assert_eq!(told(prompt, vec![plain(Star, Blue), plain(Heart, Blue)], |_| ()), "star is blue");
        assert_eq!(told(prompt, vec![plain(Heart, Blue)], |v| v.extra = 2), "no red star, 2 extra");
        // the correct star is not matched with the wrong one
        assert_eq!(told(prompt, vec![plain(Star, Blue), plain(Star, Red)], |_| ()), "no blue heart");
        let unclear = vec![found(Star, None, Some(Texture::Striped)), plain(Heart, Blue)];
        assert_eq!(told("a red solid star and a heart", unclear, |_| ()), "star is of unclear colour and striped");
        assert_eq!(
            told("a star above a heart", vec![plain(Star, Red), plain(Heart, Red)], |v| {
                (v.bound, v.relation, v.clean) = (2, Some(false), false);
            }),
            "in the wrong place, not a clean shape"
        );
        assert_eq!(told("two stars", vec![plain(Star, Red)], |_| ()), "a star is missing");
        assert_eq!(told("no words of this world", vec![], |_| ()), "not as asked");
    }
}
