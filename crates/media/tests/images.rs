//! Images against transformers, llama.cpp and Pillow: sizes, resized bytes, decoded bytes, patches.

use media::{Image, ImagePreprocess, PATCH_SIDE, Patches, SOFT_TOKEN_SIDE, resize};
use safetensors::SafeTensors;
use sha2::{Digest, Sha256};

fn multimodal(name: &str) -> Vec<u8> {
    testkit::read(format!("golden/multimodal/{name}"))
}

fn pillow(name: &str) -> Vec<u8> {
    testkit::read(format!("golden/media/{name}"))
}

fn image(name: &str) -> Image {
    Image::decode(&multimodal(name), name).unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sides(text: &str) -> (usize, usize) {
    let (width, height) = text.split_once('x').unwrap();
    (width.parse().unwrap(), height.parse().unwrap())
}

#[test]
fn target_sizes_are_those_of_both_stacks() {
    let table = testkit::json("golden/multimodal/sizes.json");
    let llama = |min_tokens, max_tokens| ImagePreprocess::LlamaCpp { min_tokens, max_tokens };
    let rules: Vec<ImagePreprocess> = media::BUDGETS
        .map(|budget| ImagePreprocess::Transformers { budget })
        .into_iter()
        .chain([ImagePreprocess::LLAMA_CPP, llama(280, 280), llama(70, 280)])
        .collect();
    let rows = table["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 18);
    for row in rows {
        let row: Vec<&str> = row.as_array().unwrap().iter().map(|cell| cell.as_str().unwrap()).collect();
        let (width, height) = sides(row[0]);
        assert_eq!(row.len(), rules.len() + 1);
        for (cell, rule) in row[1..].iter().zip(&rules) {
            let target = rule.target(width, height).unwrap();
            let tokens = target.0 / SOFT_TOKEN_SIDE * (target.1 / SOFT_TOKEN_SIDE);
            assert_eq!(format!("{}x{}/{tokens}", target.0, target.1), *cell, "{} by {rule}", row[0]);
        }
    }
}

#[test]
fn resized_images_have_the_bytes_of_both_stacks() {
    let table = testkit::json("golden/multimodal/sizes.json");
    let goldens = table["goldens"].as_array().unwrap();
    assert_eq!(goldens.len(), 9);
    for golden in goldens {
        let rule = match golden["budget"].as_u64() {
            Some(budget) => ImagePreprocess::Transformers { budget: budget as usize },
            None => ImagePreprocess::LLAMA_CPP,
        };
        let resized = rule.resized(&image(&format!("{}.png", golden["image"].as_str().unwrap()))).unwrap();
        assert_eq!(
            (resized.width() as u64, resized.height() as u64),
            (golden["width"].as_u64().unwrap(), golden["height"].as_u64().unwrap())
        );
        assert_eq!(sha256(resized.rgb()), golden["rgb_sha256"].as_str().unwrap(), "{golden}");
        let tokens = Patches::of(&resized, PATCH_SIDE).unwrap().soft_tokens();
        assert_eq!(tokens as u64, golden["tokens"].as_u64().unwrap());
        assert_eq!(Patches::of(&resized, SOFT_TOKEN_SIDE).unwrap().soft_tokens(), tokens);
    }
    for name in ["wide", "square", "tall"] {
        let resized =
            ImagePreprocess::Transformers { budget: 70 }.resized(&image(&format!("{name}.png"))).unwrap();
        assert_eq!(resized, image(&format!("{name}.resized70.png")));
    }
    assert_eq!(ImagePreprocess::LLAMA_CPP.resized(&image("wide.png")).unwrap(), image("wide.llama.png"));
}

#[test]
fn resizing_is_pillows() {
    let noise = |width: usize, height: usize| {
        let value = |x: u64, y: u64, c: u64| {
            ((7 * x + 13 * y + 29 * c + x * y).wrapping_mul(2_654_435_761) as u32 >> 24) as u8
        };
        let mut rgb = Vec::new();
        for y in 0..height as u64 {
            for x in 0..width as u64 {
                rgb.extend([0, 1, 2].map(|c| value(x, y, c)));
            }
        }
        Image::new(width, height, rgb).unwrap()
    };
    let table = String::from_utf8(pillow("resize.tsv")).unwrap();
    let mut rows = 0;
    for row in table.lines().skip(1) {
        let cells: Vec<&str> = row.split('\t').collect();
        let [width, height, to_width, to_height] = [0, 1, 2, 3].map(|cell| cells[cell].parse().unwrap());
        let resized = resize(&noise(width, height), to_width, to_height).unwrap();
        assert_eq!(sha256(resized.rgb()), cells[4], "{row}");
        rows += 1;
    }
    assert_eq!(rows, 71);
}

#[test]
fn patches_are_those_of_transformers() {
    let bytes = multimodal("preprocess.safetensors");
    let goldens = SafeTensors::deserialize(&bytes).unwrap();
    let rule = ImagePreprocess::Transformers { budget: 70 };
    let check = |golden: &str, patches: &Patches, picked: &[usize]| {
        let golden = testkit::floats(goldens.tensor(golden).unwrap().data());
        assert_eq!(golden.len(), picked.len() * patches.patch_len());
        for (golden, number) in golden.chunks(patches.patch_len()).zip(picked) {
            let found = &patches.values[number * patches.patch_len()..][..patches.patch_len()];
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(found), bits(golden), "patch {number}");
        }
    };
    for name in ["wide", "square", "tall"] {
        let patches = rule.patches(&image(&format!("{name}.png")), PATCH_SIDE).unwrap();
        let last = patches.columns * patches.rows - 1;
        assert_eq!(patches.values.len(), (last + 1) * patches.patch_len());
        check(&format!("{name}.patches"), &patches, &[0, 1, last]);
        let ids = goldens.tensor(&format!("{name}.position_ids")).unwrap();
        assert_eq!(ids.shape()[0], last + 1, "{name}");
    }
    let large = rule.patches(&image("wide.png"), SOFT_TOKEN_SIDE).unwrap();
    check("wide.patches48", &large, &[0, large.columns * large.rows - 1]);
}

#[test]
fn files_decode_as_in_pillow() {
    // The largest accepted difference, and why: decoders differ in their cosine transforms and the interpolation of
    // colour; CMYK is rounded differently.
    let files = [
        ("cmyk.jpg", 2),
        ("444.jpg", 3),
        ("420.jpg", 4),
        ("progressive.jpg", 4),
        ("grey.jpg", 2),
        ("lossless.webp", 0),
        ("lossy.webp", 1),
        ("animated.webp", 0),
        ("animated.png", 0),
        ("palette.png", 0),
        ("bits.png", 0),
    ];
    let golden = pillow("decoded.rgb");
    let goldens = golden.chunks_exact(24 * 18 * 3);
    assert_eq!(goldens.len(), files.len());
    for ((name, most), golden) in files.into_iter().zip(goldens) {
        let image = Image::decode(&pillow(name), name).unwrap();
        assert_eq!((image.width(), image.height()), (24, 18), "{name}");
        let worst = image.rgb().iter().zip(golden).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(worst <= Some(most), "{name}: {worst:?}");
    }
}

#[test]
fn orientation_is_applied_as_by_transformers_and_not_by_llama_cpp() {
    let golden = pillow("upright.rgb");
    for (number, golden) in (1u8..=8).zip(golden.chunks_exact(5 * 3 * 3)) {
        let name = format!("orientation-{number}.png");
        let image = Image::decode(&pillow(&name), &name).unwrap();
        assert_eq!((image.orientation(), image.width(), image.height()), (number, 5, 3));
        let upright = image.upright();
        assert_eq!(upright.rgb(), golden, "{name}");
        assert_eq!((upright.width() > upright.height(), upright.orientation()), (number < 5, 1));
        let resized = |rule: ImagePreprocess| {
            rule.resized(&image).map(|image| (image.width(), image.height())).unwrap()
        };
        assert_eq!(
            resized(ImagePreprocess::TRANSFORMERS),
            if number < 5 { (1008, 576) } else { (576, 1008) }
        );
        assert_eq!(resized(ImagePreprocess::LLAMA_CPP), (528, 336));
    }
    assert_eq!(Image::decode(&pillow("420.jpg"), "420.jpg").unwrap().orientation(), 6);
}
