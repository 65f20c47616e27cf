//! transformers makes the same of images and sounds: states, outputs of the towers, soft tokens.

mod common;

use common::Golden;
use common::media::{Media, embedded_images, image, matrix, mel, relative_rms};
use runtime::towers::{
    Activation, Features, ImagePatches, MediaEncoder, SoundInput, TowerForm, TowerStage, TowerWeights,
};
use runtime::{Compute, Kernel, Matrix, RowMajor};
use tensor::Fault;

/// What f32 sums in another order may do to features.
const VISION: f64 = 1e-5;
const AUDIO: f64 = 3e-5;

/// Holds values to a golden.
fn assert_near(golden: &Golden, name: &str, found: &Matrix, most: f64) {
    let rms = relative_rms(&golden.floats(name), found);
    assert!(rms <= most, "{name}: relative rms {rms:.2e}");
}

fn assert_features(golden: &Golden, name: &str, found: &Features, most: f64) {
    assert_near(golden, &format!("{name}.encoder"), &found.encoder, most);
    assert_near(golden, &format!("{name}.projector"), &found.soft_tokens, most);
}

fn goldens(name: &str) -> Golden {
    Golden::read(&format!("golden/multimodal/{name}.safetensors"))
}

const IMAGES: [&str; 3] = ["wide", "square", "tall"];
const SOUNDS: [&str; 2] = ["chirp-1.37s", "chirp-3s"];

#[test]
fn images_give_the_soft_tokens_of_transformers() {
    for name in ["e2b", "31b", "26b-a4b", "e2b-stress", "31b-stress"] {
        let (media, golden) = (Media::open(name), goldens(name));
        for encoder in media.encoders() {
            assert_eq!(encoder.image_input(), Some((16, 3)));
            // of the 26B-A4B, whose tower is that of the 31B, there is one
            for picture in &IMAGES[..if name == "26b-a4b" { 1 } else { 3 }] {
                let found = encoder.image(&image(picture, 16), |_, _| ()).unwrap();
                assert_features(&golden, picture, &found, VISION);
            }
        }
    }
}

#[test]
fn sounds_give_the_soft_tokens_of_transformers() {
    for name in ["e2b", "e2b-stress"] {
        let (media, golden) = (Media::open(name), goldens(name));
        for encoder in media.encoders() {
            assert_eq!(encoder.sound_input(), Some(SoundInput::Mel { bins: 128 }));
            for sound in SOUNDS {
                let found = encoder.sound(&mel(sound), |_, _| ()).unwrap();
                assert_features(&golden, sound, &found, AUDIO);
            }
        }
    }
}

#[test]
fn every_stage_has_the_state_of_transformers() {
    let (media, golden) = (Media::open("e2b-stress"), goldens("e2b-stress"));
    for encoder in media.encoders() {
        let mut stages = Vec::new();
        let mut see = |stage: TowerStage, x: &Matrix, name: &str, most| {
            assert_near(&golden, &format!("{name}.{stage}"), x, most);
            stages.push(stage);
        };
        encoder.image(&image("wide", 16), |stage, x| see(stage, x, "wide", VISION)).unwrap();
        let kept = ["feed_forward1", "self_attn", "lconv1d", "feed_forward2"];
        let of_second =
            |stage: &TowerStage| kept.iter().any(|part| stage.to_string() == format!("block1.{part}"));
        let sound = encoder.sound(&mel("chirp-1.37s"), |stage, x| {
            if !of_second(&stage) {
                see(stage, x, "chirp-1.37s", AUDIO);
            }
        });
        sound.unwrap();
        assert_eq!(stages.len(), 3 + 7);
    }
}

/// The two things that llama.cpp computes in another way.
#[test]
fn the_variants_of_llama_cpp_have_their_own_goldens() {
    for name in ["e2b", "31b", "e2b-stress", "31b-stress"] {
        let (media, golden) = (Media::open(name), goldens(name));
        for encoder in media.encoders() {
            let quick = encoder.with_activation(Activation::QuickGelu);
            let found = quick.image(&image("wide", 16), |_, _| ()).unwrap();
            assert_near(&golden, "wide.projector.quick_gelu", &found.soft_tokens, VISION);
            let rms = relative_rms(&golden.floats("wide.projector"), &found.soft_tokens);
            assert!(rms > 1e-3, "{name}: {rms:.2e}");
        }
    }
    // ln(mel + 0.001) to ln(max(mel, 0.001))
    let floored = mel("chirp-1.37s").mapv(|x| ((f64::from(x)).exp() - 0.001).max(0.001).ln() as f32);
    for name in ["e2b", "e2b-stress"] {
        let (media, golden) = (Media::open(name), goldens(name));
        for encoder in media.encoders() {
            let found = encoder.sound(&floored, |_, _| ()).unwrap();
            assert_near(&golden, "chirp-1.37s.projector.max_floor", &found.soft_tokens, AUDIO);
        }
    }
}

#[test]
fn a_model_without_towers_embeds_patches_and_samples() {
    let media = Media::of("golden/multimodal-12b");
    let golden = Golden::read("golden/multimodal-12b/golden.safetensors");
    for encoder in media.encoders() {
        assert_eq!(encoder.image_input(), Some((12, 1)));
        assert_eq!(encoder.sound_input(), Some(SoundInput::Samples { count: 20 }));
        for (n, patches) in embedded_images(&golden).iter().enumerate() {
            let found = encoder.image(patches, |_, _| ()).unwrap();
            assert_features(&golden, &format!("image{n}"), &found, VISION);
        }
        let samples = matrix(&golden, "sound.samples", 20);
        let found = encoder.sound(&samples, |_, _| ()).unwrap();
        assert_near(&golden, "sound.projector", &found.soft_tokens, VISION);
        assert_eq!(found.encoder, samples);
    }
}

/// The other order of columns, planes and shapes, and values after softplus, are what an mmproj file has.
#[test]
fn an_mmproj_file_gives_the_same_features() {
    for name in ["e2b-stress", "31b-stress", "12b"] {
        let media = if name == "12b" { Media::of("golden/multimodal-12b") } else { Media::open(name) };
        let (source, tensors) = media.mmproj();
        let compute = Compute { kernel: Kernel::F32, ..Compute::detect() };
        let weights = TowerWeights::new(&source, &tensors, TowerForm::Mmproj, compute).unwrap();
        let mmproj = MediaEncoder::new(&media.towers, weights);
        let checkpoint = MediaEncoder::new(&media.towers, media.weights(Kernel::F32));
        let images = match name {
            "12b" => embedded_images(&Golden::read("golden/multimodal-12b/golden.safetensors")),
            _ => IMAGES.map(|name| image(name, 16)).to_vec(),
        };
        for image in &images {
            let [a, b] = [&checkpoint, &mmproj].map(|encoder| encoder.image(image, |_, _| ()).unwrap());
            let rms = relative_rms(a.soft_tokens.values(), &b.soft_tokens);
            assert!(rms < 2e-6, "{name}: {rms:.2e}");
        }
        if let Some(SoundInput::Mel { .. }) = mmproj.sound_input() {
            let [a, b] =
                [&checkpoint, &mmproj].map(|encoder| encoder.sound(&mel(SOUNDS[0]), |_, _| ()).unwrap());
            assert!(a.soft_tokens == b.soft_tokens, "{name}: a sound");
        }
    }
}

#[test]
fn a_sound_of_few_frames_has_its_tokens() {
    let media = Media::open("e2b-stress");
    let encoder = &media.encoders()[0];
    let whole = mel("chirp-1.37s");
    for frames in [0usize, 1, 4, 5, 17] {
        let part = whole.slice(ndarray::s![..frames, ..]).to_owned();
        let found = encoder.sound(&part, |_, _| ()).unwrap();
        assert_eq!(found.soft_tokens.dim(), (frames.div_ceil(4), 256));
    }
}

#[test]
fn what_a_model_cannot_read_is_refused() {
    let media = Media::open("31b");
    let encoder = &media.encoders()[0];
    assert_eq!(encoder.sound_input(), None);
    let error = encoder.sound(&Matrix::zeros((4, 128)), |_, _| ()).unwrap_err();
    assert_eq!((error.fault(), error.problem()), (Fault::Unsupported, "it reads no sounds"));

    let refusal = |columns, rows, shape: (usize, usize)| {
        let image = ImagePatches { columns, rows, values: Matrix::zeros(shape) };
        encoder.image(&image, |_, _| ()).unwrap_err()
    };
    assert_eq!(refusal(6, 3, (17, 768)).problem(), "not a grid of patches");
    assert_eq!(refusal(6, 3, (18, 767)).problem(), "not a grid of patches");
    assert_eq!(refusal(0, 3, (0, 768)).problem(), "not a grid of patches");
    assert_eq!(refusal(4, 3, (12, 768)).expected_found(), Some(("a multiple of 3", "4")));
    assert_eq!(refusal(258, 3, (774, 768)).fault(), Fault::Limit);
    let nan = ImagePatches { columns: 3, rows: 3, values: Matrix::from_elem((9, 768), f32::NAN) };
    assert_eq!(encoder.image(&nan, |_, _| ()).unwrap_err().place(), "image tower, patch_embd");

    let media = Media::open("e2b");
    let error = media.encoders()[0].sound(&Matrix::zeros((4, 80)), |_, _| ()).unwrap_err();
    assert_eq!(error.expected_found(), Some(("128 bins", "80")));
}
