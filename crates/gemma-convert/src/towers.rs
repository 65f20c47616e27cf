//! The image and audio parts that go with a model, and the soft tokens of files.
//!
//! A checkpoint brings its own, and files are prepared as transformers does it. A GGUF has none: they are in an mmproj file, and files are
//! prepared as llama.cpp does it.

use std::path::{Path, PathBuf};

use base::{Progress, Unit};
use checkpoint::Checkpoint;
use gemma::Normalisation;
use gemma::towers::{GELU_KEY, TowerTensor, Towers};
use gguf::GgufSet;
use media::{
    AudioPreprocess, Image, ImagePreprocess, MelWindows, Patches, Programs, SOFT_TOKEN_SIDE, Sound, Video,
    VideoPart, VideoPreprocess, sample_tokens,
};
use runtime::towers::{
    Activation, ImagePatches, MediaEncoder, SoundInput, TowerForm, TowerStage, TowerWeights,
};
use runtime::{Compute, Matrix, RowMajor};
use tensor::{Error, Result, TensorSource};
use text::MediaFile;
use verify::{FeatureErrors, StageErrors};

use crate::model::{Container, Model};

/// Images, sounds and videos of a prompt.
#[derive(Clone, Debug, Default)]
pub struct MediaOptions {
    /// The files, in the order of their places in the prompt.
    pub files: Vec<MediaFile>,
    /// The mmproj file with the towers. Without it they are those of the checkpoint.
    pub mmproj: Option<PathBuf>,
    /// How images are resized. The default is that of transformers for the towers of a checkpoint, and that of llama.cpp for an mmproj file.
    pub image_preprocess: Option<ImagePreprocess>,
}

/// A piece of a prompt that a file becomes.
#[derive(Clone, Debug)]
pub(crate) enum Piece {
    /// Text, between the frames of a video.
    Text(String),
    /// Soft tokens of an image or a frame, `[soft tokens, hidden]`.
    Image(Matrix),
    /// Soft tokens of a sound, `[soft tokens, hidden]`.
    Sound(Matrix),
}

/// The image and audio parts that go with a model.
pub(crate) struct TowerFile<'m> {
    towers: Towers,
    tensors: Vec<TowerTensor>,
    source: Source<'m>,
    activation: Activation,
    images: ImagePreprocess,
    sounds: AudioPreprocess,
    videos: VideoPreprocess,
    colours: Normalisation,
    compute: Compute,
}

/// The field of the number of soft tokens of an image.
const BUDGET_FIELD: &str = "processor_config.json: image_processor.max_soft_tokens";

/// Where the weights are.
enum Source<'m> {
    Checkpoint(&'m Checkpoint),
    Mmproj(Box<GgufSet>),
}

impl<'m> TowerFile<'m> {
    /// Opens the towers of a model.
    ///
    /// # Errors
    /// `Recipe` for a GGUF without an mmproj file; `Unsupported` for a model that reads neither images nor sounds; `Malformed` for an mmproj
    /// file of another model.
    pub(crate) fn open(model: &'m Model, options: &MediaOptions, compute: Compute) -> Result<TowerFile<'m>> {
        let mut file = match (&options.mmproj, &model.container) {
            (Some(path), _) => TowerFile::mmproj(path, compute).map_err(|e| e.within(path.display()))?,
            (None, Container::Checkpoint(checkpoint, spec)) => {
                TowerFile::checkpoint(checkpoint, spec, compute)
                    .map_err(|e| e.within(model.path().display()))?
            }
            (None, Container::Gguf(..)) => {
                return Err(Error::recipe(
                    "‹mmproj›",
                    "a GGUF of a text model reads neither images nor sounds",
                )
                .help("Give its mmproj file, which `convert` writes with ‹mmproj›."));
            }
        };
        let hidden = model.config().hidden;
        if file.towers.hidden != hidden {
            let place = options.mmproj.as_deref().unwrap_or(model.path());
            return Err(Error::malformed(place.display(), "these towers are of another model")
                .expected(format!("soft tokens of {hidden} values"), file.towers.hidden));
        }
        if let Some(preprocess) = options.image_preprocess {
            preprocess.check()?;
            file.images = preprocess;
        }
        Ok(file)
    }

    /// The towers of a checkpoint, computed as transformers does it.
    ///
    /// # Errors
    /// `Unsupported` for a model that reads neither images nor sounds, and for another preparation than is built in.
    pub(crate) fn checkpoint(
        checkpoint: &'m Checkpoint,
        spec: &gemma::ModelSpec,
        compute: Compute,
    ) -> Result<TowerFile<'m>> {
        let towers = Towers::from_json(&spec.json, &spec.config)?.ok_or_else(|| {
            Error::unsupported("model", "it reads neither images nor sounds")
                .help("Its config has no vision_config and no audio_config: a text-only model.")
        })?;
        spec.check_processor(&towers)?;
        let images = image_budget(spec).map(|budget| ImagePreprocess::Transformers { budget });
        images.as_ref().map_or(Ok(()), ImagePreprocess::check).map_err(|e| e.within(BUDGET_FIELD))?;
        Ok(TowerFile {
            tensors: towers.find(checkpoint.tensors())?,
            towers,
            source: Source::Checkpoint(checkpoint),
            activation: Activation::TanhGelu,
            images: images.unwrap_or(ImagePreprocess::TRANSFORMERS),
            sounds: AudioPreprocess::Transformers,
            videos: VideoPreprocess::Transformers,
            colours: Normalisation::of_processor(spec.image_processor())?,
            compute,
        })
    }

    /// The towers of an mmproj file, computed as llama.cpp does it.
    ///
    /// # Errors
    /// `Malformed` or `Unsupported` for a file that is not an mmproj file of a Gemma 4, `Io`.
    pub(crate) fn mmproj(path: &Path, compute: Compute) -> Result<TowerFile<'m>> {
        let set = GgufSet::open(path)?;
        let towers = Towers::from_metadata(set.metadata(), set.tensors())?;
        let exact: Option<bool> = set.metadata().typed(GELU_KEY)?;
        Ok(TowerFile {
            tensors: towers.find_in_mmproj(set.tensors())?,
            towers,
            colours: Normalisation::of_mmproj(set.metadata())?,
            activation: if exact == Some(true) { Activation::TanhGelu } else { Activation::QuickGelu },
            source: Source::Mmproj(Box::new(set)),
            images: ImagePreprocess::LLAMA_CPP,
            sounds: AudioPreprocess::LlamaCpp,
            videos: VideoPreprocess::LlamaCpp,
            compute,
        })
    }

    /// The same towers, with files prepared and activations computed as by `other`.
    pub(crate) fn prepared_as(self, other: &TowerFile<'_>) -> TowerFile<'m> {
        let TowerFile { activation, images, sounds, videos, colours, .. } = *other;
        TowerFile { activation, images, sounds, videos, colours, ..self }
    }

    /// The program whose way of preparing files and computing activations this is.
    pub(crate) fn way(&self) -> &'static str {
        match (self.images, self.activation) {
            (ImagePreprocess::Transformers { .. }, _) => "transformers",
            (ImagePreprocess::LlamaCpp { .. }, Activation::QuickGelu) => "llama.cpp, with its quick-GELU",
            (ImagePreprocess::LlamaCpp { .. }, Activation::TanhGelu) => "llama.cpp",
        }
    }

    /// A remark if an mmproj file and the text model were made from different checkpoints, as their manifests say.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn doubt(&self, model: &Model) -> Result<Option<String>> {
        match (&self.source, &model.container) {
            (Source::Mmproj(mmproj), Container::Gguf(..)) => {
                other_checkpoint(model.path(), mmproj.parts()[0].path())
            }
            _ => Ok(None),
        }
    }

    /// The soft tokens of an image or a sound, `[soft tokens, hidden]`.
    ///
    /// # Errors
    /// Those of an image or a sound that the model does not read.
    pub(crate) fn soft_tokens(&self, opened: &OpenedMedia) -> Result<Matrix> {
        opened.soft_tokens(self, &self.encoder()?, &mut unobserved)
    }

    /// The encoder of the reference runtime.
    pub(crate) fn encoder(&self) -> Result<MediaEncoder<'_>> {
        let (source, form): (&dyn TensorSource, _) = match &self.source {
            Source::Checkpoint(checkpoint) => (*checkpoint, TowerForm::Checkpoint),
            Source::Mmproj(set) => (&**set, TowerForm::Mmproj),
        };
        let weights = TowerWeights::new(source, &self.tensors, form, self.compute)?;
        Ok(MediaEncoder::new(&self.towers, weights).with_activation(self.activation))
    }

    /// What files become, each a list of pieces.
    ///
    /// # Errors
    /// Those of the crate `media` for a file that cannot be read, and of `runtime` for one that the model cannot read.
    pub(crate) fn pieces(&self, files: &[MediaFile], progress: &dyn Progress) -> Result<Vec<Vec<Piece>>> {
        let encoder = self.encoder()?;
        files.iter().map(|file| self.pieces_of(&encoder, file, progress)).collect()
    }

    fn pieces_of(
        &self,
        encoder: &MediaEncoder<'_>,
        file: &MediaFile,
        progress: &dyn Progress,
    ) -> Result<Vec<Piece>> {
        match file {
            MediaFile::Image(path) => {
                let image = Image::open(path)?;
                let rows = self
                    .image(encoder, &image, self.images, &mut unobserved)
                    .map_err(|e| e.within(path.display()))?;
                Ok(vec![Piece::Image(rows)])
            }
            MediaFile::Sound(path) => {
                let sound = Sound::open(path)?;
                let (rows, cut) =
                    self.sound(encoder, &sound, &mut unobserved).map_err(|e| e.within(path.display()))?;
                if cut > 0 {
                    let seconds = cut as f64 / f64::from(media::SAMPLE_RATE);
                    progress.note(&format!(
                        "{}: the last {seconds:.1} seconds are left out, as in transformers: the model reads 30 seconds of a sound",
                        path.display()
                    ));
                }
                Ok(vec![Piece::Sound(rows)])
            }
            MediaFile::Video(path) => {
                let rule = self.videos;
                let video = Video::open(path, rule, &Programs::default())?;
                let piece = |part| match part {
                    VideoPart::Text(text) => Ok(Piece::Text(text)),
                    VideoPart::Frame(number) => {
                        let image = &video.frames[number].image;
                        self.image(encoder, image, rule.image(), &mut unobserved).map(Piece::Image)
                    }
                };
                let pieces = rule.parts(&video).into_iter().map(piece);
                pieces.collect::<Result<_>>().map_err(|e| e.within(path.display()))
            }
        }
    }

    /// The soft tokens of an image that is resized by this rule.
    fn image(
        &self,
        encoder: &MediaEncoder<'_>,
        image: &Image,
        rule: ImagePreprocess,
        observe: &mut Observer<'_>,
    ) -> Result<Matrix> {
        let (side, pooling) = encoder.image_input().ok_or_else(MediaEncoder::no_images)?;
        if side * pooling != SOFT_TOKEN_SIDE {
            return Err(Error::unsupported("model", "soft tokens of another size than any Gemma 4 has")
                .expected(format!("{SOFT_TOKEN_SIDE} × {SOFT_TOKEN_SIDE} pixels"), side * pooling));
        }
        let Normalisation { mean, deviation } = self.colours;
        let Patches { columns, rows, values, .. } = rule.patches(image, side)?.normalised(mean, deviation);
        let values = matrix(columns * rows, values);
        Ok(encoder.image(&ImagePatches { columns, rows, values }, observe)?.soft_tokens)
    }

    /// The soft tokens of a sound, and the number of samples that are left out.
    fn sound(
        &self,
        encoder: &MediaEncoder<'_>,
        sound: &Sound,
        observe: &mut Observer<'_>,
    ) -> Result<(Matrix, usize)> {
        let mut soft_tokens = |input: Matrix| Ok(encoder.sound(&input, &mut *observe)?.soft_tokens);
        match encoder.sound_input().ok_or_else(MediaEncoder::no_sounds)? {
            SoundInput::Samples { .. } => {
                let tokens = sample_tokens(&sound.samples);
                Ok((soft_tokens(matrix(tokens.rows, tokens.values))?, 0))
            }
            SoundInput::Mel { .. } => {
                let MelWindows { windows, cut } = self.sounds.windows(&sound.samples)?;
                let mut all = Matrix::zeros((0, self.towers.hidden as usize));
                for window in windows {
                    all.append_rows(&soft_tokens(matrix(window.frames, window.values))?);
                }
                Ok((all, cut))
            }
        }
    }
}

/// A remark if a text model and an mmproj file were made from different checkpoints, as their manifests say.
///
/// # Errors
/// `Io`.
pub(crate) fn other_checkpoint(text: &Path, mmproj: &Path) -> Result<Option<String>> {
    let differs = verify::differing_weights(text, mmproj)?;
    Ok(differs.map(|name| {
        format!("the mmproj file and the text model are of different checkpoints: their manifests list different {name}")
    }))
}

/// A receiver of the states of a tower.
type Observer<'a> = dyn FnMut(TowerStage, &Matrix) + 'a;

fn unobserved(_: TowerStage, _: &Matrix) {}

/// An image or a sound in memory.
pub(crate) enum OpenedMedia {
    Image(Image),
    Sound(Sound),
}

impl OpenedMedia {
    /// # Errors
    /// Those of a file that cannot be read; `Unsupported` for a video.
    pub(crate) fn open(file: &MediaFile) -> Result<OpenedMedia> {
        match file {
            MediaFile::Image(path) => Image::open(path).map(OpenedMedia::Image),
            MediaFile::Sound(path) => Sound::open(path).map(OpenedMedia::Sound),
            MediaFile::Video(path) => {
                Err(Error::unsupported(path.display(), "a video: its frames are images of their own"))
            }
        }
    }

    fn soft_tokens(
        &self,
        towers: &TowerFile<'_>,
        encoder: &MediaEncoder<'_>,
        observe: &mut Observer<'_>,
    ) -> Result<Matrix> {
        match self {
            OpenedMedia::Image(image) => towers.image(encoder, image, towers.images, observe),
            OpenedMedia::Sound(sound) => Ok(towers.sound(encoder, sound, observe)?.0),
        }
    }

    /// A small PNG.
    fn picture(&self) -> Result<Vec<u8>> {
        match self {
            OpenedMedia::Image(image) => image.picture(),
            OpenedMedia::Sound(sound) => media::spectrogram(&sound.samples),
        }
    }
}

/// Reads images and sounds, so that a fault in one is seen before the work that comes first.
///
/// # Errors
/// Those of [`OpenedMedia::open`].
pub(crate) fn check_media(files: &[MediaFile]) -> Result<()> {
    files.iter().try_for_each(|file| OpenedMedia::open(file).map(drop))
}

/// Soft tokens of an image by the processor config.
pub(crate) fn image_budget(spec: &gemma::ModelSpec) -> Option<usize> {
    spec.image_processor()?.get("max_soft_tokens")?.as_u64().map(|budget| budget as usize)
}

/// Rows of equal length.
fn matrix(rows: usize, values: Vec<f32>) -> Matrix {
    let cols = values.len().checked_div(rows).unwrap_or(0);
    Matrix::from_shape_vec((rows, cols), values).expect("whole rows")
}

/// The soft tokens that llama.cpp makes of an image or a sound with an mmproj file, `[soft tokens, hidden]`.
///
/// # Errors
/// Those of an mmproj file or a file that cannot be read; `Unsupported` for a video.
pub fn soft_tokens(mmproj: &Path, file: &MediaFile) -> Result<Matrix> {
    let towers = TowerFile::mmproj(mmproj, Compute::detect()).map_err(|e| e.within(mmproj.display()))?;
    towers.soft_tokens(&OpenedMedia::open(file)?).map_err(|e| e.within(file.path().display()))
}

/// Compares the soft tokens of images and sounds that an mmproj file and its base make. `open` opens the towers of the base.
///
/// # Errors
/// Those of the files, and of a model that does not read them.
pub(crate) fn compare<'b>(
    mmproj: &Path,
    open: &dyn Fn() -> Result<TowerFile<'b>>,
    files: &[MediaFile],
    compute: Compute,
    progress: &dyn Progress,
) -> Result<Vec<FeatureErrors>> {
    let artifact = TowerFile::mmproj(mmproj, compute).map_err(|e| e.within(mmproj.display()))?;
    let transformers = TowerFile {
        // the same patches, because another size has other soft tokens
        images: artifact.images,
        sounds: AudioPreprocess::Transformers,
        activation: Activation::TanhGelu,
        ..open()?
    };
    let base = open()?.prepared_as(&artifact);
    let encoders = (base.encoder()?, artifact.encoder()?, transformers.encoder()?);
    let mut all = Vec::with_capacity(files.len());
    let task = progress.begin("features", files.len() as u64, Unit::Steps);
    for file in files {
        let opened = OpenedMedia::open(file)?;
        let soft_tokens = |towers: &TowerFile<'_>, encoder: &MediaEncoder<'_>, observe: &mut Observer<'_>| {
            opened.soft_tokens(towers, encoder, observe).map_err(|e| e.within(file.path().display()))
        };
        let mut stages = StageErrors::default();
        let x = soft_tokens(&base, &encoders.0, &mut |stage, states| {
            if is_plotted(stage) {
                stages.expect(states.values());
            }
        })?;
        let y = soft_tokens(&artifact, &encoders.1, &mut |stage, states| {
            if is_plotted(stage) {
                stages.take(stage.to_string(), states.values());
            }
        })?;
        let z = soft_tokens(&transformers, &encoders.2, &mut unobserved)?;
        if x.dim() != y.dim() {
            return Err(Error::malformed(mmproj.display(), "these towers are of another model")
                .expected(format!("{:?}", x.dim()), format!("{:?}", y.dim())));
        }
        let name = file.path().display().to_string();
        let errors = FeatureErrors::of(name, x.ncols(), x.values(), y.values(), z.values());
        all.push(FeatureErrors { stages: stages.finish(), picture: opened.picture()?, ..errors });
        task.advance(1);
    }
    Ok(all)
}

/// Stages of a report: the residual stream before the blocks and after each.
fn is_plotted(stage: TowerStage) -> bool {
    matches!(stage, TowerStage::Patches | TowerStage::Subsampling | TowerStage::Block(_))
}
