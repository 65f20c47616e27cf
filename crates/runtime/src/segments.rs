//! The segments of a prompt: tokens, and soft tokens of images and sounds in the places of placeholder tokens.
//!
//! A soft token replaces an embedding after its scaling. Positions count on through all segments. Attention is causal, except that
//! in 12B, 26B-A4B and 31B the soft tokens of an image attend to each other, later ones too, in sliding layers.
//! `Gemma4Model.forward` and `create_masks_for_vision_model` in `models/gemma4/modeling_gemma4.py` of huggingface/transformers.

use ndarray::{ArrayView2, Axis};
use tensor::{Error, Result};

use crate::Model;

/// A segment of a prompt.
#[derive(Clone, Copy, Debug)]
pub enum Segment<'a> {
    /// Token ids.
    Tokens(&'a [u32]),
    /// Soft tokens of an image or a frame of a video, `[soft tokens, hidden]`.
    Image(ArrayView2<'a, f32>),
    /// Soft tokens of a sound, `[soft tokens, hidden]`.
    Sound(ArrayView2<'a, f32>),
}

/// The id whose per-layer embedding a soft token has: that of padding.
pub(crate) const PAD: u32 = 0;

impl<'a> Segment<'a> {
    /// Positions that it takes.
    pub fn len(&self) -> usize {
        match self {
            Segment::Tokens(tokens) => tokens.len(),
            Segment::Image(rows) | Segment::Sound(rows) => rows.nrows(),
        }
    }

    /// Without any position.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same segment for a shorter time. (Views of ndarray do not shorten by themselves.)
    pub(crate) fn borrowed(&self) -> Segment<'_> {
        match self {
            Segment::Tokens(tokens) => Segment::Tokens(tokens),
            Segment::Image(rows) => Segment::Image(rows.view()),
            Segment::Sound(rows) => Segment::Sound(rows.view()),
        }
    }

    /// Its soft tokens, if it has any.
    pub(crate) fn soft_tokens(&self) -> Option<ArrayView2<'a, f32>> {
        match self {
            Segment::Tokens(_) => None,
            Segment::Image(rows) | Segment::Sound(rows) => Some(*rows),
        }
    }

    fn is_image(&self) -> bool {
        matches!(self, Segment::Image(_))
    }

    fn split_at(self, at: usize) -> (Segment<'a>, Segment<'a>) {
        match self {
            Segment::Tokens(tokens) => {
                let (before, after) = tokens.split_at(at);
                (Segment::Tokens(before), Segment::Tokens(after))
            }
            Segment::Image(rows) => {
                let (before, after) = rows.split_at(Axis(0), at);
                (Segment::Image(before), Segment::Image(after))
            }
            Segment::Sound(rows) => {
                let (before, after) = rows.split_at(Axis(0), at);
                (Segment::Sound(before), Segment::Sound(after))
            }
        }
    }
}

/// Token ids of all positions of a prompt; soft tokens have that of padding.
pub fn tokens(segments: &[Segment<'_>]) -> Vec<u32> {
    let mut all = Vec::new();
    for segment in segments {
        match segment {
            Segment::Tokens(tokens) => all.extend_from_slice(tokens),
            soft => all.resize(all.len() + soft.len(), PAD),
        }
    }
    all
}

/// For each position, of which the first is `start`: the end of what it attends to in a sliding layer. That is the next position, or with
/// `blocks` the end of the run of images that it is part of.
pub(crate) fn ends(segments: &[Segment<'_>], start: usize, blocks: bool) -> Vec<usize> {
    let mut ends = Vec::new();
    for run in segments.chunk_by(|a, b| a.is_image() && b.is_image()) {
        let first = start + ends.len();
        let count: usize = run.iter().map(Segment::len).sum();
        match blocks && run.iter().any(Segment::is_image) {
            true => ends.resize(ends.len() + count, first + count),
            false => ends.extend(first + 1..=first + count),
        }
    }
    ends
}

/// The segments in pieces of `most` positions. A run of images is never cut: a piece with one may be longer.
pub(crate) fn pieces<'a>(segments: &[Segment<'a>], most: usize) -> Vec<Vec<Segment<'a>>> {
    let (mut pieces, mut piece, mut room) = (Vec::new(), Vec::new(), most);
    for run in segments.chunk_by(|a, b| a.is_image() && b.is_image()) {
        let count: usize = run.iter().map(Segment::len).sum();
        if run.iter().any(Segment::is_image) {
            if count > room && !piece.is_empty() {
                pieces.push(std::mem::take(&mut piece));
                room = most;
            }
            piece.extend_from_slice(run);
            room = room.saturating_sub(count);
            continue;
        }
        let mut rest = run[0];
        while !rest.is_empty() {
            if room == 0 {
                pieces.push(std::mem::take(&mut piece));
                room = most;
            }
            let (next, later) = rest.split_at(rest.len().min(room));
            room -= next.len();
            piece.push(next);
            rest = later;
        }
    }
    pieces.push(piece);
    pieces.retain(|piece| !piece.is_empty());
    pieces
}

impl Model<'_> {
    /// Refuses what the model cannot read from position `start` on.
    pub(crate) fn check_segments(&self, segments: &[Segment<'_>], start: usize) -> Result<()> {
        let mut end = start;
        for segment in segments {
            if let Segment::Tokens(tokens) = segment {
                self.check_tokens(tokens, end)?;
            }
            let width = segment.soft_tokens().map(|rows| rows.ncols() as u64);
            if let Some(width) = width.filter(|&width| width != self.config().hidden) {
                return Err(Error::malformed(format!("soft tokens at position {end}"), "not of this model")
                    .expected(format!("{} values each", self.config().hidden), width)
                    .help("Do the image and audio parts and the text model belong together?"));
            }
            end += segment.len();
        }
        if end == start {
            return Err(Error::malformed("tokens", "there are none").expected("at least one", 0));
        }
        if end as u64 > self.config().context {
            return Err(Error::limit("context", "longer than the model's")
                .expected(format!("at most {} tokens", self.config().context), end));
        }
        Ok(())
    }

    fn check_tokens(&self, tokens: &[u32], start: usize) -> Result<()> {
        let Some(at) = tokens.iter().position(|&token| u64::from(token) >= self.config().vocab) else {
            return Ok(());
        };
        Err(Error::malformed(format!("token at position {}", start + at), "beyond the vocabulary")
            .expected(format!("below {}", self.config().vocab), tokens[at])
            .help("Do the tokenizer and the model belong together?"))
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;

    #[test]
    fn an_image_sees_itself_to_its_end() {
        let soft = Array2::<f32>::zeros((3, 2));
        let [text, image, sound] =
            [Segment::Tokens(&[5, 6]), Segment::Image(soft.view()), Segment::Sound(soft.view())];
        let segments = [text, image, sound, image, image, text];
        let causal: Vec<usize> = (11..27).collect();
        assert_eq!(ends(&segments, 10, false), causal);
        let expected = [11, 12, 15, 15, 15, 16, 17, 18, 24, 24, 24, 24, 24, 24, 25, 26];
        assert_eq!(ends(&segments, 10, true), expected);
        assert_eq!(tokens(&segments[..3]), [5, 6, PAD, PAD, PAD, PAD, PAD, PAD]);
    }

    #[test]
    fn pieces_are_full_but_never_cut_an_image() {
        let soft = Array2::<f32>::zeros((6, 2));
        let (text, image) = (Segment::Tokens(&[1; 10]), Segment::Image(soft.view()));
        let sound = Segment::Sound(soft.view());
        let lengths = |segments: &[Segment<'_>]| -> Vec<Vec<usize>> {
            pieces(segments, 8).iter().map(|piece| piece.iter().map(Segment::len).collect()).collect()
        };
        assert_eq!(lengths(&[text]), [vec![8], vec![2]]);
        assert_eq!(lengths(&[text, image, text]), [vec![8], vec![2, 6], vec![8], vec![2]]);
        assert_eq!(lengths(&[text, sound, image]), [vec![8], vec![2, 6], vec![6]]);
        // one run of images
        assert_eq!(lengths(&[image, image, text]), [vec![6, 6], vec![8], vec![2]]);
        assert!(lengths(&[]).is_empty());
    }
}
