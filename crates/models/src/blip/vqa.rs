use super::question_answering::QuestionAnswering;
use crate::{
    error::{Error, Result},
    preprocess::{Preprocess, resize_as_bytes},
    tokenizer::{Batch, BertTokenizer},
};
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// Maximum number of tokens of a yes-or-no question, with start and end token; longer ones are cut.
const QUESTION_TOKENS: usize = 35;
/// Maximum number of words of a yes-or-no question.
const QUESTION_WORDS: usize = 50;
/// Maximum number of tokens of a free answer: the default of transformers' `generate`.
const ANSWER_TOKENS: i64 = 20;

/// The network with pre- and postprocessing: images and questions in, answers out.
///
/// Two conventions are in use, and scores compare only within one. T2I-CompBench asks yes or no as BLIP's own code does
/// ([`Vqa::yes_no`]); TIFA and others let transformers' `generate` write an answer ([`Vqa::answer`]), which begins a question with
/// \[CLS] where BLIP was trained with \[ENC].
pub struct Vqa {
    network: QuestionAnswering,
    tokenizer: BertTokenizer,
    preprocess: Preprocess,
    /// Token \[ENC], which begins a question; published tokenizers do not have it.
    enc: i64,
    yes: i64,
    no: i64,
}

impl Vqa {
    /// Reads the network, its tokenizer and its preprocessing from a transformers folder.
    ///
    /// # Errors
    /// The same as [`QuestionAnswering::open`]; also if the tokenizer or the image size does not match the network.
    pub fn open(folder: &Path, kind: Kind, device: Device) -> Result<Self> {
        let network = QuestionAnswering::open(folder, kind, device)?;
        let (tokenizer, preprocess) = (BertTokenizer::open(folder)?, Preprocess::open(folder)?);
        let fail = |what: String| Error::file(folder, what);
        let (known, words) = (network.config().text.vocab_size, tokenizer.vocab_size());
        if words > known {
            return Err(fail(format!(
                "the tokenizer has {words} tokens, but vocab_size is {known}; is it another model's?"
            )));
        }
        let (side, _) = network.image_size();
        if let Some((height, width)) = preprocess.size.filter(|&size| size != (side, side)) {
            let message = format!(
                "preprocessor_config.json resizes to {height}x{width}, but image_size in config.json is {side}"
            );
            return Err(fail(message));
        }
        let word =
            |word: &str| tokenizer.id(word).ok_or_else(|| fail(format!("the tokenizer does not know the word {word}")));
        let (yes, no, enc) = (word("yes")?, word("no")?, tokenizer.id("[ENC]"));
        // BLIP appends [DEC] and [ENC] to BERT's vocabulary, in that order.
        let last = (network.config().text.bos_token_id == known - 2).then_some(known - 1);
        let enc = enc.or(last).ok_or_else(|| {
            fail(format!("the tokenizer has no [ENC], and bos_token_id is not the last but one of {known} tokens"))
        })?;
        Ok(Self { network, tokenizer, preprocess, enc, yes, no })
    }

    /// Confidence in "yes" against "no": `P(yes) / (P(yes) + P(no))` for each question.
    ///
    /// images `[B, 3, H, W]` in 0..1 and B questions, or one image for all questions. A question is cut after 35
    /// tokens.
    pub fn yes_no(&self, images: &Tensor, questions: &[&str]) -> Result<Vec<f64>> {
        // Computed from the logits, so that neither probability can underflow.
        let logits = self.first_token(images, questions)?;
        let difference = logits.select(1, self.yes) - logits.select(1, self.no);
        Ok(Vec::<f64>::try_from(difference.sigmoid())?)
    }

    /// Probabilities of "yes" and of "no" among all tokens, for each question. Arguments as in [`Vqa::yes_no`].
    ///
    /// Source: BLIP-VQA of T2I-CompBench (Huang et al. 2023), BLIP/models/blip_vqa.py.
    pub fn probabilities(&self, images: &Tensor, questions: &[&str]) -> Result<Vec<(f64, f64)>> {
        self.yes_and_no(&self.first_token(images, questions)?)
    }

    /// As [`Vqa::probabilities`], for several questions about each of several images `[3, H, W]` of any size. All
    /// images are encoded in one batch, and all questions answered in one batch.
    pub fn probabilities_each(&self, images: &[Tensor], questions: &[Vec<String>]) -> Result<Vec<Vec<(f64, f64)>>> {
        self.about_each(images, questions, |embeds, questions| {
            self.yes_and_no(&self.first_token_of(embeds, questions)?)
        })
    }

    /// A free answer to each question, as transformers' `generate` writes it by default. Images as in [`Vqa::yes_no`].
    ///
    /// # Errors
    /// If a question has more tokens than `max_position_embeddings`; it is not cut here.
    pub fn answer(&self, images: &Tensor, questions: &[&str]) -> Result<Vec<String>> {
        let _guard = tch::no_grad_guard();
        check_count(images, questions)?;
        self.answer_of(&self.embed(images)?, questions)
    }

    /// As [`Vqa::answer`], for several questions about each of several images; see [`Vqa::probabilities_each`].
    pub fn answer_each(&self, images: &[Tensor], questions: &[Vec<String>]) -> Result<Vec<Vec<String>>> {
        self.about_each(images, questions, |embeds, questions| self.answer_of(embeds, questions))
    }

    pub fn network(&self) -> &QuestionAnswering {
        &self.network
    }

    /// Input pixels of the network `[B, 3, S, S]` from images `[B, 3, H, W]` in 0..1: resized in 8 bits and normalised.
    pub fn pixels(&self, images: &Tensor) -> Result<Tensor> {
        self.preprocess.normalise(&resize_as_bytes(images, self.network.image_size())?)
    }

    /// Tokens of yes-or-no questions: prepared, cut, with \[ENC] as first token.
    pub fn tokens(&self, questions: &[&str]) -> Result<Batch> {
        let prepared: Vec<String> = questions.iter().map(|question| prepare(question)).collect();
        let prepared: Vec<&str> = prepared.iter().map(String::as_str).collect();
        let batch = self.tokenizer.encode_batch(&prepared, QUESTION_TOKENS)?;
        let _ = batch.ids.select(1, 0).fill_(self.enc);
        Ok(batch)
    }

    /// Logits of an answer's first token `[B, V]`, float64
    fn first_token(&self, images: &Tensor, questions: &[&str]) -> Result<Tensor> {
        let _guard = tch::no_grad_guard();
        check_count(images, questions)?;
        self.first_token_of(&self.embed(images)?, questions)
    }

    fn first_token_of(&self, embeds: &Tensor, questions: &[&str]) -> Result<Tensor> {
        let tokens = self.tokens(questions)?;
        let read = self.network.read(embeds, &tokens.ids, &tokens.attention_mask)?;
        let logits = self.network.first_token(&read).to_kind(Kind::Double);
        let finite = Vec::<bool>::try_from(logits.isfinite().all_dim(1, false))?;
        match finite.iter().position(|finite| !finite) {
            None => Ok(logits),
            Some(i) => Err(Error::Input(format!(
                "VQA: the logits for question {}, {:?}, are not numbers; are the image and the weights finite? In half \
                 precision, try float32",
                i + 1,
                questions[i]
            ))),
        }
    }

    fn yes_and_no(&self, logits: &Tensor) -> Result<Vec<(f64, f64)>> {
        let all = logits.softmax(1, Kind::Double);
        let of = |token: i64| Vec::<f64>::try_from(all.select(1, token));
        Ok(of(self.yes)?.into_iter().zip(of(self.no)?).collect())
    }

    fn answer_of(&self, embeds: &Tensor, questions: &[&str]) -> Result<Vec<String>> {
        let most = self.network.config().text.max_position_embeddings as usize;
        for question in questions {
            if self.tokenizer.encode(question, most)?.cut.is_some() {
                let message =
                    format!("VQA: the question {question:?} has more than max_position_embeddings {most} tokens");
                return Err(Error::Input(message));
            }
        }
        let tokens = self.tokenizer.encode_batch(questions, most)?;
        let read = self.network.read(embeds, &tokens.ids, &tokens.attention_mask)?;
        let answers = self.network.greedy(&read, ANSWER_TOKENS)?;
        answers.iter().map(|ids| self.tokenizer.decode_words(ids)).collect()
    }

    /// `[B, N, D]`
    fn embed(&self, images: &Tensor) -> Result<Tensor> {
        self.network.embed_image(&self.pixels(images)?)
    }

    /// Answers by image. `answer` gets one row of embeddings for each question.
    fn about_each<A>(
        &self,
        images: &[Tensor],
        questions: &[Vec<String>],
        answer: impl Fn(&Tensor, &[&str]) -> Result<Vec<A>>,
    ) -> Result<Vec<Vec<A>>> {
        let _guard = tch::no_grad_guard();
        if images.len() != questions.len() {
            let (images, lists) = (images.len(), questions.len());
            return Err(Error::Input(format!("VQA: {images} images and {lists} lists of questions")));
        }
        let asked: Vec<usize> = (0..images.len()).filter(|&i| !questions[i].is_empty()).collect();
        let mut answers: Vec<Vec<A>> = images.iter().map(|_| vec![]).collect();
        if asked.is_empty() {
            return Ok(answers);
        }
        let pixels = asked.iter().map(|&i| self.pixels(&images[i].unsqueeze(0))).collect::<Result<Vec<_>>>()?;
        let embeds = self.network.embed_image(&Tensor::cat(&pixels, 0))?;
        let mut rows = vec![];
        let mut texts: Vec<&str> = vec![];
        for (row, &i) in (0..).zip(&asked) {
            rows.extend(questions[i].iter().map(|_| row));
            texts.extend(questions[i].iter().map(String::as_str));
        }
        let rows: Tensor = Tensor::from_slice::<i64>(&rows).to_device(embeds.device());
        let mut all = answer(&embeds.index_select(0, &rows), &texts)?.into_iter();
        for i in asked {
            answers[i] = all.by_ref().take(questions[i].len()).collect();
        }
        Ok(answers)
    }
}

/// A question in the form that BLIP was trained with: lower case, no punctuation but the question mark, at most 50
/// words (BLIP/data/utils.py).
pub fn prepare(question: &str) -> String {
    let marks = ['.', '!', '"', '(', ')', '*', '#', ':', ';', '~'];
    let plain = question.to_lowercase().replace(marks, "");
    plain.trim_end_matches(' ').split(' ').take(QUESTION_WORDS).collect::<Vec<_>>().join(" ")
}

fn check_count(images: &Tensor, questions: &[&str]) -> Result<()> {
    let (count, asked) = (images.size().first().copied().unwrap_or(0), questions.len() as i64);
    if asked == 0 {
        return Err(Error::Input("VQA: there are no questions".into()));
    }
    if count != asked && count != 1 {
        return Err(Error::Input(format!(
            "VQA: {count} images for {asked} questions; give one for each, or one for all"
        )));
    }
    Ok(())
}
