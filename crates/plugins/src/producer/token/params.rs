//! Parameters of `token-producer`, and which of them make sense.

use router_framework::BuildError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Parameters of `token-producer`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Params {
    /// How tokens are estimated.
    pub estimate: Estimate,
    /// Model whose tokenizer is used. Not available in this version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_name: Option<String>,
    /// Tokenizing by a vLLM server. Not available in this version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vllm: Option<serde_json::Value>,
    /// Tokenizing by a process behind a Unix socket. Deprecated, and not available in this version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uds_tokenizer_config: Option<serde_json::Value>,
}

/// How tokens are estimated.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Estimate {
    /// Images.
    pub image: Image,
    /// Videos.
    pub video: Video,
}

/// How the tokens of images are estimated.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Image {
    /// `dynamic`: by width and height. `static`: the same for every image.
    pub mode: Mode,
    /// Size of an image that does not show its own, such as a link.
    pub default_resolution: Resolution,
    /// For `dynamic`.
    pub dynamic: Dynamic,
    /// For `static`.
    #[serde(rename = "static")]
    pub fixed: StaticImage,
}

/// How the tokens of videos are estimated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Video {
    /// Size of a video whose client does not say it.
    pub default_resolution: Resolution,
    /// Seconds that a video lasts whose client does not say it. Above 0.
    pub default_duration: f64,
    /// Tokens of one frame.
    pub tokens_per_frame: TokensPerFrame,
    /// Frames that the model looks at.
    pub frames: Frames,
    /// Most tokens that a video counts. 0 for no cap of its own.
    pub max_video_tokens: u32,
}

/// A size in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Resolution {
    /// Pixels. Above 0.
    pub width: u32,
    /// Pixels. Above 0.
    pub height: u32,
}

/// Whether the size of a picture counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// By width and height.
    #[default]
    Dynamic,
    /// Always the same.
    Static,
}

/// Tokens by the size of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Dynamic {
    /// Pixels per token. Above 0.
    pub factor: u32,
}

/// Tokens of an image of any size.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct StaticImage {
    /// Tokens of every image. Above 0.
    pub static_token: u32,
}

/// Tokens of a video's frame.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct TokensPerFrame {
    /// `dynamic`: by width and height. `static`: the same for every frame.
    pub mode: Mode,
    /// For `static`.
    #[serde(rename = "static")]
    pub fixed: StaticFrame,
    /// For `dynamic`.
    pub dynamic: Dynamic,
}

/// Tokens of a frame of any size.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct StaticFrame {
    /// Tokens of every frame. Above 0.
    pub num_tokens_per_frame: u32,
}

/// How many frames of a video the model looks at.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Frames {
    /// `sampled`: so many frames per second of video. `strided`: every n-th frame.
    pub mode: FrameMode,
    /// Fewest frames. 0 for no bound.
    #[serde(rename = "minFrames")]
    pub min: u32,
    /// Most frames. 0 for no bound.
    #[serde(rename = "maxFrames")]
    pub max: u32,
    /// For `sampled`.
    pub sampled: Sampled,
    /// For `strided`.
    pub strided: Strided,
}

/// How frames are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum FrameMode {
    /// So many frames per second of video.
    #[default]
    Sampled,
    /// Every n-th frame.
    Strided,
}

/// Frames taken at a steady rate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Sampled {
    /// Frames per second of video. Above 0.
    #[serde(rename = "sampleFPS")]
    pub sample_fps: f64,
    /// Frames that are merged into one. Below 2 for none.
    pub temporal_patch_size: u32,
}

/// Every n-th frame of the source.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Strided {
    /// Frames per second of a video whose client does not say it. Above 0.
    #[serde(rename = "defaultSourceFPS")]
    pub default_source_fps: f64,
    /// One frame out of so many is taken. Above 0.
    pub frame_stride: u32,
}

impl Default for Video {
    fn default() -> Self {
        Self {
            default_resolution: Resolution::default(),
            default_duration: 10.0,
            tokens_per_frame: TokensPerFrame::default(),
            frames: Frames::default(),
            max_video_tokens: 0,
        }
    }
}

impl Default for Resolution {
    fn default() -> Self {
        Self { width: 640, height: 360 }
    }
}

impl Default for Dynamic {
    fn default() -> Self {
        Self { factor: 1024 }
    }
}

impl Default for StaticImage {
    fn default() -> Self {
        Self { static_token: 1 }
    }
}

impl Default for StaticFrame {
    fn default() -> Self {
        Self { num_tokens_per_frame: 1 }
    }
}

impl Default for Sampled {
    fn default() -> Self {
        Self { sample_fps: 2.0, temporal_patch_size: 0 }
    }
}

impl Default for Strided {
    fn default() -> Self {
        Self { default_source_fps: 24.0, frame_stride: 1 }
    }
}

impl Params {
    pub(super) fn check(&self) -> Result<(), BuildError> {
        let absent = |path, is_given: bool, feature: &str| {
            if !is_given {
                return Ok(());
            }
            let message = format!(
                "not available in this version: {feature}; leave it out to estimate tokens"
            );
            Err(BuildError::at(path, message))
        };
        absent("modelName", self.model_name.is_some(), "tokenizing with a model's tokenizer")?;
        absent("vllm", self.vllm.is_some(), "tokenizing by a vLLM server")?;
        absent(
            "udsTokenizerConfig",
            self.uds_tokenizer_config.is_some(),
            "tokenizing over a Unix socket",
        )?;
        self.estimate.image.check("estimate.image")?;
        self.estimate.video.check("estimate.video")
    }
}

impl Image {
    fn check(&self, at: &str) -> Result<(), BuildError> {
        self.default_resolution.check(at)?;
        above_zero(self.dynamic.factor, at, "dynamic.factor")?;
        above_zero(self.fixed.static_token, at, "static.staticToken")
    }
}

impl Video {
    fn check(&self, at: &str) -> Result<(), BuildError> {
        self.default_resolution.check(at)?;
        positive(self.default_duration, at, "defaultDuration")?;
        let per_frame = &self.tokens_per_frame;
        above_zero(per_frame.dynamic.factor, at, "tokensPerFrame.dynamic.factor")?;
        above_zero(
            per_frame.fixed.num_tokens_per_frame,
            at,
            "tokensPerFrame.static.numTokensPerFrame",
        )?;
        let frames = &self.frames;
        positive(frames.sampled.sample_fps, at, "frames.sampled.sampleFPS")?;
        positive(frames.strided.default_source_fps, at, "frames.strided.defaultSourceFPS")?;
        above_zero(frames.strided.frame_stride, at, "frames.strided.frameStride")?;
        if frames.max > 0 && frames.min > frames.max {
            return Err(BuildError::at(
                format!("{at}.frames.minFrames"),
                "must not be above maxFrames",
            ));
        }
        Ok(())
    }
}

impl Resolution {
    fn check(self, at: &str) -> Result<(), BuildError> {
        above_zero(self.width, at, "defaultResolution.width")?;
        above_zero(self.height, at, "defaultResolution.height")
    }
}

fn above_zero(value: u32, at: &str, parameter: &str) -> Result<(), BuildError> {
    positive(f64::from(value), at, parameter)
}

fn positive(value: f64, at: &str, parameter: &str) -> Result<(), BuildError> {
    if value > 0.0 && value.is_finite() {
        return Ok(());
    }
    Err(BuildError::at(format!("{at}.{parameter}"), "must be above 0"))
}
