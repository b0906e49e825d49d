use std::collections::BTreeMap;
use tch::Tensor;
use torch_ext::Shared;

/// Name of the hidden states of the text, one row per token `[B, L, D]`.
pub const CONTEXT: &str = "context";

/// Conditions of a network other than time: tensors by name, each with one row for every sample. A network and its
/// prompt encoder agree on the names; all other code only cuts, stacks and moves the tensors together.
#[derive(Debug, Default)]
pub struct Conditions(BTreeMap<&'static str, Shared>);

impl Conditions {
    /// Conditions with only the hidden states of the text.
    pub fn of_context(context: Tensor) -> Self {
        Self::default().with(CONTEXT, context)
    }

    pub fn with(mut self, name: &'static str, tensor: Tensor) -> Self {
        self.0.insert(name, tensor.into());
        self
    }

    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.0.get(name).map(|tensor| &**tensor)
    }

    /// Hidden states of the text `[B, L, D]`, if there are any.
    pub fn context(&self) -> Option<&Tensor> {
        self.get(CONTEXT)
    }

    /// Applies a function to every tensor.
    pub fn map(&self, f: impl Fn(&Tensor) -> Tensor) -> Self {
        self.map_named(|_, tensor| f(tensor))
    }

    /// Applies a function to every tensor and its name.
    pub fn map_named(&self, f: impl Fn(&str, &Tensor) -> Tensor) -> Self {
        Self(self.0.iter().map(|(name, tensor)| (*name, f(name, tensor).into())).collect())
    }

    /// Concatenates the rows of all parts. A name that is missing in one part is left out.
    pub fn cat(parts: &[&Self]) -> Self {
        let Some((first, rest)) = parts.split_first() else { return Self::default() };
        let of = |name: &'static str| {
            let rows = std::iter::once(first).chain(rest).map(|part| part.get(name)).collect::<Option<Vec<_>>>()?;
            Some((name, Tensor::cat(&rows, 0).into()))
        };
        Self(first.0.keys().filter_map(|name| of(name)).collect())
    }

    pub fn narrow(&self, start: i64, length: i64) -> Self {
        self.map(|tensor| tensor.narrow(0, start, length))
    }

    /// Repeats the rows of all tensors `times` times, one copy after the other.
    pub fn repeat_rows(&self, times: i64) -> Self {
        self.map(|tensor| tensor.repeat([&[times], vec![1; tensor.dim() - 1].as_slice()].concat()))
    }

    pub fn rows(&self) -> i64 {
        self.0.values().next().map_or(0, |tensor| tensor.size()[0])
    }

    /// Size of all tensors in bytes.
    pub fn bytes(&self) -> usize {
        self.0.values().map(|tensor| tensor.numel() * tensor.kind().elt_size_in_bytes()).sum()
    }
}
