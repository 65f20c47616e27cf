//! transformers predicts the same behind images and sounds: logits, with the attention mask of generation.

mod common;

use common::media::{Media, embedded_images, image, matrix, mel, relative_rms};
use common::{Golden, max_difference};
use ndarray::{Axis, s};
use runtime::towers::MediaEncoder;
use runtime::{Kernel, KvCache, Matrix, Model, RowMajor, Segment, argmax};
use tensor::Fault;

/// What f32 sums in another order may do to a logit.
const LOGITS: f32 = 2e-3;

/// A prompt with soft tokens of images and sounds, in order.
struct Prompt {
    ids: Vec<u32>,
    image_token: u32,
    sound_token: u32,
    soft: Vec<Matrix>,
}

impl Prompt {
    fn new(media: &Media, ids: Vec<u32>, soft: Vec<Matrix>) -> Prompt {
        let id = |key: &str| media.folder.checkpoint.config()[key].as_u64().unwrap() as u32;
        Prompt { ids, image_token: id("image_token_id"), sound_token: id("audio_token_id"), soft }
    }

    /// Placeholders replaced by soft tokens.
    fn segments(&self) -> Vec<Segment<'_>> {
        let kind = |id: u32| [self.image_token, self.sound_token].iter().position(|&token| token == id);
        let mut soft = self.soft.iter();
        let runs = self.ids.chunk_by(|&a, &b| kind(a) == kind(b));
        let segments: Vec<Segment<'_>> = runs
            .map(|run| match kind(run[0]) {
                None => Segment::Tokens(run),
                Some(kind) => {
                    let rows = soft.next().unwrap().view();
                    if kind == 0 { Segment::Image(rows) } else { Segment::Sound(rows) }
                }
            })
            .collect();
        assert_eq!(segments.iter().map(Segment::len).sum::<usize>(), self.ids.len());
        assert!(soft.next().is_none());
        segments
    }
}

/// The prompts of `fixtures/golden/multimodal` that a golden has.
fn prompts(media: &Media, golden: &Golden, name: &str) -> Vec<(&'static str, Prompt)> {
    let encoder = MediaEncoder::new(&media.towers, media.weights(Kernel::F32));
    let picture = |name| encoder.image(&image(name, 16), |_, _| ()).unwrap().soft_tokens;
    let mut prompts = vec![("image", vec![picture("wide")])];
    if !name.starts_with("26b") {
        prompts.push(("two_images", vec![picture("tall"), picture("square")]));
    }
    if name.starts_with("e2b") {
        let sound = || encoder.sound(&mel("chirp-1.37s"), |_, _| ()).unwrap().soft_tokens;
        prompts.push(("audio", vec![sound()]));
        prompts.push(("image_audio", vec![picture("square"), sound()]));
    }
    let of_ids = |name: &str, soft| Prompt::new(media, golden.ids(&format!("{name}.input_ids")), soft);
    prompts.into_iter().map(|(name, soft)| (name, of_ids(name, soft))).collect()
}

/// Logits of all positions.
fn logits(model: &Model<'_>, segments: &[Segment<'_>]) -> Matrix {
    let mut cache = KvCache::new(model.config());
    model.head(&model.forward_segments(segments, &mut cache, |_, _| ()).unwrap()).unwrap()
}

#[test]
fn logits_are_those_of_transformers() {
    for name in ["e2b", "31b", "26b-a4b", "e2b-stress", "31b-stress"] {
        let media = Media::open(name);
        let golden = Golden::read(&format!("golden/multimodal/{name}.safetensors"));
        assert_eq!(media.folder.config.image_blocks, !name.starts_with("e2b"));
        for model in media.folder.models() {
            for (prompt, of) in prompts(&media, &golden, name) {
                let found = logits(&model, &of.segments());
                let positions = golden.ids(&format!("{prompt}.positions"));
                let expected = matrix(&golden, &format!("{prompt}.logits"), found.ncols());
                for (expected, position) in expected.outer_iter().zip(positions) {
                    let found = found.row_values(position as usize);
                    let difference = max_difference(expected.to_slice().unwrap(), found);
                    assert!(
                        difference <= LOGITS,
                        "{name}, {prompt}: position {position} differs by {difference}"
                    );
                }
            }
        }
    }
}

/// The prompt of the 12B, whose first image is longer than the window.
fn of_12b() -> (Media, Golden, Prompt) {
    let media = Media::of("golden/multimodal-12b");
    let golden = Golden::read("golden/multimodal-12b/golden.safetensors");
    let encoder = MediaEncoder::new(&media.towers, media.weights(Kernel::F32));
    let images = embedded_images(&golden);
    let picture = |n: usize| encoder.image(&images[n], |_, _| ()).unwrap().soft_tokens;
    let sound = encoder.sound(&matrix(&golden, "sound.samples", 20), |_, _| ()).unwrap().soft_tokens;
    let soft = vec![picture(0), sound, picture(1)];
    let prompt = Prompt::new(&media, golden.ids("media.input_ids"), soft);
    (media, golden, prompt)
}

#[test]
fn an_image_longer_than_the_window_is_seen_as_transformers_sees_it() {
    let (media, golden, prompt) = of_12b();
    let expected = golden.ids("media.output_ids");
    for model in media.folder.models() {
        let found = logits(&model, &prompt.segments());
        let difference = max_difference(&golden.floats("media.logits"), found.values());
        assert!(difference <= 1e-4, "logits differ by {difference}");
        // greedy generation
        let mut cache = KvCache::new(model.config());
        let mut hidden = model.forward_last_segments(&prompt.segments(), &mut cache).unwrap();
        for token in &expected[prompt.ids.len()..] {
            assert_eq!(argmax(model.head(&hidden).unwrap().row_values(0)) as u32, *token);
            hidden = model.forward_last(&[*token], &mut cache).unwrap();
        }
    }
}

/// Segments one at a time leave the cache that all at once do, and so does a sequence in a batch beside another.
#[test]
fn segments_may_come_one_by_one() {
    let golden = |name: &str| Golden::read(&format!("golden/multimodal/{name}.safetensors"));
    for name in ["e2b-stress", "31b-stress", "12b"] {
        let (media, prompt) = if name == "12b" {
            let (media, _, prompt) = of_12b();
            (media, prompt)
        } else {
            let media = Media::open(name);
            let prompt = prompts(&media, &golden(name), name).pop().unwrap().1;
            (media, prompt)
        };
        for model in media.folder.models() {
            // and an image of so few tokens that its queries are computed one by one
            let few = prompt.soft[0].slice(s![..3, ..]).to_owned();
            let mut segments = prompt.segments();
            segments.push(Segment::Image(few.view()));
            let whole = logits(&model, &segments);
            let near = |found: &Matrix, what: &str| {
                let rms = relative_rms(whole.values(), found);
                assert!(rms < 1e-5, "{name}, {what}: {rms:.2e}");
            };
            let mut cache = KvCache::new(model.config());
            let mut parts = Matrix::zeros((0, whole.ncols()));
            for segment in &segments {
                let hidden = model.forward_segments(&[*segment], &mut cache, |_, _| ()).unwrap();
                parts.append_rows(&model.head(&hidden).unwrap());
            }
            near(&parts, "one by one");

            let other = [Segment::Tokens(&[2, 5, 6, 7])];
            let mut batch = model.embed_segments(&[&other, &segments]).unwrap();
            for layer in 0..model.config().layers() {
                model.layer(layer, &mut batch).unwrap();
            }
            near(&model.head(&batch.hidden().slice(s![4.., ..]).to_owned()).unwrap(), "in a batch");
        }
    }
}

/// A long prompt is computed in pieces, of which none cuts an image.
#[test]
fn an_image_in_a_long_prompt_is_whole() {
    for name in ["e2b-stress", "31b-stress"] {
        let media = Media::open(name);
        let encoder = MediaEncoder::new(&media.towers, media.weights(Kernel::F32));
        let soft = encoder.image(&image("square", 16), |_, _| ()).unwrap().soft_tokens;
        let tokens = media.folder.tokens(500);
        let segments = [Segment::Tokens(&tokens), Segment::Image(soft.view()), Segment::Tokens(&[7, 8, 9])];
        for model in media.folder.models() {
            let all = logits(&model, &segments);
            let hidden = model.forward_last_segments(&segments, &mut KvCache::new(model.config())).unwrap();
            let last = all.select(Axis(0), &[all.nrows() - 1]);
            let rms = relative_rms(last.values(), &model.head(&hidden).unwrap());
            assert!(rms < 1e-5, "{name}: {rms:.2e}");
        }
    }
}

#[test]
fn soft_tokens_of_another_model_are_refused() {
    let media = Media::open("31b");
    let model = media.folder.model();
    let soft = Matrix::zeros((3, 128));
    let segments = [Segment::Tokens(&[2, 3]), Segment::Image(soft.view())];
    let error = model.forward_segments(&segments, &mut KvCache::new(model.config()), |_, _| ()).unwrap_err();
    assert_eq!((error.fault(), error.place()), (Fault::Malformed, "soft tokens at position 2"));
    assert_eq!(error.expected_found(), Some(("256 values each", "128")));
}
