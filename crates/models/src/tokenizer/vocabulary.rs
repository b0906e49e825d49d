//! Tokenizers from the vocabulary files used before `tokenizer.json`.

use crate::{
    error::{Error, Result},
    text,
};
use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
};
use tokenizers::{
    NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer,
    models::{
        bpe::{BPE, Merges, Vocab},
        wordpiece::WordPieceBuilder,
    },
    normalizers::{self, Lowercase, NFC, replace::ReplacePattern},
    pre_tokenizers::{
        self,
        bert::BertPreTokenizer,
        byte_level::ByteLevel,
        split::{Split, SplitPattern},
    },
};

/// Regular expression of the words in which CLIP's byte pairs are merged.
const CLIP_WORDS: &str = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

pub fn clip(folder: &Path, unknown: &str) -> Result<Tokenizer> {
    let (vocabulary, merges) = (folder.join("vocab.json"), folder.join("merges.txt"));
    if !vocabulary.exists() || !merges.exists() {
        return Err(Error::file(folder, "holds neither tokenizer.json nor vocab.json with merges.txt"));
    }
    let text = text::read(&vocabulary)?;
    let words: BTreeMap<String, u32> =
        serde_json::from_str(&text).map_err(|e| Error::file(&vocabulary, e.to_string()))?;
    let pairs = read_merges(&merges)?;
    check_complete(&words, &pairs, &merges)?;
    let words: Vocab = words.into_iter().collect();
    let fail = |e: tokenizers::Error| Error::file(&merges, e.to_string());
    let model = BPE::builder()
        .vocab_and_merges(words, pairs)
        .unk_token(unknown.to_owned())
        .end_of_word_suffix("</w>".to_owned())
        .build()
        .map_err(fail)?;
    let mut tokenizer = Tokenizer::new(model);
    let spaces = normalizers::Replace::new(ReplacePattern::Regex(r"\s+".to_owned()), " ").map_err(fail)?;
    let steps: Vec<NormalizerWrapper> = vec![NFC.into(), spaces.into(), Lowercase.into()];
    tokenizer.with_normalizer(Some(normalizers::Sequence::new(steps)));
    let words = SplitPattern::Regex(CLIP_WORDS.to_owned());
    let words = Split::new(words, SplitDelimiterBehavior::Removed, true).map_err(fail)?;
    let steps: Vec<PreTokenizerWrapper> = vec![words.into(), ByteLevel::new(false, true, true).into()];
    tokenizer.with_pre_tokenizer(Some(pre_tokenizers::sequence::Sequence::new(steps)));
    Ok(tokenizer)
}

/// Reads the merges: two pieces on each line; the first line is the version.
fn read_merges(path: &Path) -> Result<Merges> {
    let text = text::read(path)?;
    let lines = text::lines(&text).enumerate().filter(|(_, line)| !line.starts_with("#version") && !line.is_empty());
    let pair = |(number, line): (usize, &str)| match line.split(' ').collect::<Vec<_>>()[..] {
        [left, right] => Ok((left.to_owned(), right.to_owned())),
        _ => Err(Error::file(path, format!("line {} is not a pair of pieces: {line}", number + 1))),
    };
    lines.map(pair).collect()
}

/// Refuses a vocabulary of words without any merge, and warns if the merges produce less than 99 of 100 of its tokens:
/// with a truncated file every word would be split into letters. Some vocabularies contain extra words as filling,
/// which no merge produces.
fn check_complete(words: &BTreeMap<String, u32>, merges: &Merges, path: &Path) -> Result<()> {
    let made: HashSet<String> = merges.iter().map(|(left, right)| format!("{left}{right}")).collect();
    let is_letter = |word: &str| word.strip_suffix("</w>").unwrap_or(word).chars().nth(1).is_none();
    let never: Vec<&String> = words.keys().filter(|word| !is_letter(word) && !made.contains(*word)).collect();
    let Some(first) = never.iter().find(|word| !word.starts_with('<')) else { return Ok(()) };
    let said = format!(
        "{} of the {} tokens in vocab.json, {first} for example, are made by no pair of pieces here",
        never.len(),
        words.len()
    );
    if merges.is_empty() {
        return Err(Error::file(path, format!("{said}: there is none; fetch the file again")));
    }
    if words.len() > 100 && never.len() * 100 > words.len() {
        tracing::warn!(
            "{}: {said}, so no prompt comes to them; if the file was cut off, words fall apart into letters: fetch it again",
            path.display()
        );
    }
    Ok(())
}

pub fn bert(folder: &Path, unknown: &str) -> Result<Tokenizer> {
    let path = folder.join("vocab.txt");
    if !path.exists() {
        return Err(Error::file(folder, "holds neither tokenizer.json nor vocab.txt"));
    }
    let text = text::read(&path)?;
    let words: Vocab = text::lines(&text).zip(0..).map(|(word, id)| (word.to_owned(), id)).collect();
    let model = WordPieceBuilder::new().vocab(words).unk_token(unknown.to_owned()).build();
    let mut tokenizer = Tokenizer::new(model.map_err(|e| Error::file(&path, e.to_string()))?);
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    Ok(tokenizer)
}
