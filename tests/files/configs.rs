//! Configurations: what they mean, and what is refused.

use std::path::Path;

use ellesmere::models::config::{
    Activation, BlockKind, FromJson, PipelineIndex, TextEncoderConfig, UNetConfig, VaeConfig,
};
use serde_json::{Value, json};

use crate::{assert_fails, golden_json};

pub fn parse<C: FromJson>(value: &Value) -> ellesmere::Result<C> {
    C::from_json(Path::new("part/config.json"), &value.to_string())
}

pub fn config(kind: &str, component: &str) -> Value {
    golden_json(&format!("models/{kind}/{component}/config.json"))
}

fn with(mut config: Value, key: &str, value: Value) -> Value {
    config[key] = value;
    config
}

#[test]
fn the_number_of_heads_is_what_the_file_calls_their_width() {
    let one: UNetConfig = parse(&config("sd15", "unet")).unwrap();
    assert_eq!(one.heads, [8; 4]);
    assert!(!one.use_linear_projection);
    let two: UNetConfig = parse(&config("sd21-base", "unet")).unwrap();
    assert_eq!(two.heads, [2, 4, 6, 6]);
    assert!(two.use_linear_projection);
    let large: UNetConfig = parse(&config("sd21", "unet")).unwrap();
    assert_eq!(large, UNetConfig { sample_size: [12, 12], ..two });
}

#[test]
fn a_middle_block_is_absent_only_where_the_file_says_null() {
    use BlockKind::{CrossAttention, Plain};
    let base: UNetConfig = parse(&config("bk-base", "unet")).unwrap();
    assert!(base.mid_block);
    assert_eq!(base.layers_per_block, [1; 4]);
    let small: UNetConfig = parse(&config("bk-small", "unet")).unwrap();
    assert_eq!(small, UNetConfig { mid_block: false, ..base });
    let tiny: UNetConfig = parse(&config("bk-tiny", "unet")).unwrap();
    assert_eq!(tiny.block_out_channels, [32, 64, 96]);
    assert_eq!(tiny.down_blocks, [CrossAttention; 3]);
    let named =
        with(config("bk-small", "unet"), "mid_block_type", json!("UNetMidBlock2DCrossAttn"));
    assert!(parse::<UNetConfig>(&named).unwrap().mid_block);
    let defaults: UNetConfig = parse(&json!({"cross_attention_dim": 768})).unwrap();
    assert_eq!(defaults.down_blocks, [CrossAttention, CrossAttention, CrossAttention, Plain]);
    assert_eq!(defaults.up_blocks, [Plain, CrossAttention, CrossAttention, CrossAttention]);
}

#[test]
fn what_a_file_leaves_out_has_the_value_of_diffusers() {
    let vae: VaeConfig = parse(&config("sd21-base", "vae")).unwrap();
    assert_eq!(vae.scaling_factor, 0.18215);
    assert_eq!((vae.sample_size, vae.downscale()), ([96, 96], 8));
    assert!(vae.use_quant_conv && vae.use_post_quant_conv);
    let bare: VaeConfig = parse(&json!({})).unwrap();
    assert_eq!((bare.block_out_channels, bare.layers_per_block), (vec![64], 1));
    let text: TextEncoderConfig = parse(&config("sd21-base", "text_encoder")).unwrap();
    assert_eq!((text.activation, text.layers, text.heads), (Activation::Gelu, 3, 5));
    let text: TextEncoderConfig = parse(&config("sd15", "text_encoder")).unwrap();
    assert_eq!((text.activation, text.max_position_embeddings), (Activation::QuickGelu, 77));
}

#[test]
fn what_says_nothing_is_no_obstacle() {
    let mut unet = config("sd15", "unet");
    for (key, value) in [
        ("_name_or_path", json!("runwayml/stable-diffusion-v1-5")),
        ("a_key_of_tomorrow", json!(null)),
        ("another", json!(false)),
        ("only_cross_attention", json!([false, false, false, false])),
        ("transformer_layers_per_block", json!([1, 1, 1, 1])),
        ("mid_block_scale_factor", json!(1.0)),
        ("num_class_embeds", json!(null)),
        ("upcast_attention", json!(true)),
        ("layers_per_block", json!([2, 2, 2, 2])),
        ("sample_size", json!([8, 8])),
        ("dropout", json!(0.1)),
    ] {
        unet[key] = value;
    }
    assert_eq!(parse::<UNetConfig>(&unet).unwrap(), parse(&config("sd15", "unet")).unwrap());
}

#[test]
fn each_key_of_a_unet_that_is_not_supported_is_named() {
    let unet = config("sd15", "unet");
    let cases = [
        (
            "_class_name",
            json!("UNet3DConditionModel"),
            r#"expected "UNet2DConditionModel", got "UNet3DConditionModel""#,
        ),
        (
            "a_key_of_tomorrow",
            json!(3),
            "expected no such key, for it may change the result, got 3",
        ),
        ("act_fn", json!("gelu"), r#"expected "silu" or "swish", got "gelu""#),
        (
            "attention_head_dim",
            json!(7),
            "expected a number of heads that divides 32 channels, got 7",
        ),
        ("attention_head_dim", json!([8, 8]), "expected one number, or 4: one a block, got [8,8]"),
        ("attention_head_dim", json!(0), "expected a whole number from 1 to 1024, got 0"),
        ("addition_embed_type", json!("text_time"), r#"expected null, got "text_time""#),
        (
            "block_out_channels",
            json!([32, 64, 96, 0]),
            "expected a whole number from 1 to 16384, got 0",
        ),
        (
            "block_out_channels",
            json!([32, 64, 96, 112]),
            "expected multiples of norm_num_groups, which is 32, got 112",
        ),
        ("block_out_channels", json!([]), "expected a list of 1 to 8 numbers, got []"),
        ("block_out_channels", json!(vec![32; 9]), "expected a list of 1 to 8 numbers"),
        ("block_out_channels", json!(320), "expected a list of 1 to 8 numbers, got 320"),
        ("class_embed_type", json!("timestep"), "expected null"),
        ("center_input_sample", json!(true), "expected false, got true"),
        ("conv_in_kernel", json!(1), "expected 3, got 1"),
        ("cross_attention_dim", json!([64, 64, 64, 32]), "expected one width for all blocks"),
        (
            "down_block_types",
            json!(["DownBlock2D"]),
            r#"expected a list of 4: one a block, got ["DownBlock2D"]"#,
        ),
        (
            "down_block_types",
            json!(["KDownBlock2D", "DownBlock2D", "DownBlock2D", "DownBlock2D"]),
            r#"expected CrossAttnDownBlock2D or DownBlock2D, got "KDownBlock2D""#,
        ),
        ("dual_cross_attention", json!(true), "expected false, got true"),
        ("encoder_hid_dim", json!(768), "expected null, got 768"),
        ("flip_sin_to_cos", json!("yes"), r#"expected true or false, got "yes""#),
        ("freq_shift", json!(2), "expected a number from 0 to 1, got 2"),
        ("in_channels", json!(-4), "expected a whole number from 1 to 256, got -4"),
        ("in_channels", json!(4.5), "expected a whole number from 1 to 256, got 4.5"),
        ("layers_per_block", json!(0), "expected a whole number from 1 to 32, got 0"),
        ("layers_per_block", json!(1e300), "expected a whole number from 1 to 32"),
        (
            "mid_block_type",
            json!("UNetMidBlock2D"),
            r#"expected UNetMidBlock2DCrossAttn or null, got "UNetMidBlock2D""#,
        ),
        ("norm_eps", json!(0), "expected a number from"),
        ("norm_num_groups", json!(null), "expected a whole number from 1 to 16384, got null"),
        ("num_attention_heads", json!(8), "expected null, got 8"),
        ("only_cross_attention", json!([true, false, false, false]), "expected false"),
        (
            "resnet_time_scale_shift",
            json!("scale_shift"),
            r#"expected "default", got "scale_shift""#,
        ),
        ("time_cond_proj_dim", json!(256), "expected null, got 256"),
        ("transformer_layers_per_block", json!([1, 2, 10]), "expected 1, got [1,2,10]"),
        ("up_block_types", json!(null), "expected a list of 4: one a block, got null"),
    ];
    for (key, value, expected) in cases {
        let result = parse::<UNetConfig>(&with(unet.clone(), key, value));
        assert_fails(key, result, &[&format!("part/config.json: {key}: "), expected]);
    }
}

#[test]
fn each_key_of_the_others_that_is_not_supported_is_named() {
    let vae = config("sd15", "vae");
    let cases = [
        ("_class_name", json!("AutoencoderTiny"), "expected \"AutoencoderKL\""),
        ("scaling_factor", json!(0), "expected a number from"),
        ("scaling_factor", json!("x"), "expected a number from"),
        ("shift_factor", json!(0.1), "expected null, got 0.1"),
        ("latents_mean", json!([0.1]), "expected null, got [0.1]"),
        ("mid_block_add_attention", json!(false), "expected true, got false"),
        ("out_channels", json!(4), "expected 3, got 4"),
        ("norm_num_groups", json!(7), "expected a multiple"),
        (
            "up_block_types",
            json!([
                "UpDecoderBlock2D",
                "UpDecoderBlock2D",
                "UpDecoderBlock2D",
                "AttnUpDecoderBlock2D"
            ]),
            "AttnUpDecoderBlock2D",
        ),
    ];
    for (key, value, expected) in cases {
        let result = parse::<VaeConfig>(&with(vae.clone(), key, value));
        let expected = expected.replace("a multiple", "multiples of norm_num_groups, which is 7");
        assert_fails(key, result, &["part/config.json: ", &expected]);
    }
    let text = config("sd15", "text_encoder");
    let cases = [
        ("architectures", json!(["T5EncoderModel"]), r#"expected "CLIPTextModel" or"#),
        ("model_type", json!("bert"), r#"expected "clip_text_model", got "bert""#),
        ("hidden_act", json!("relu"), "expected quick_gelu or gelu, got \"relu\""),
        ("num_attention_heads", json!(5), "expected a divisor of hidden_size, which is 64, got 5"),
        ("num_hidden_layers", json!(0), "expected a whole number from 1 to 256, got 0"),
        (
            "vocab_size",
            json!(u64::MAX),
            "expected a whole number from 1 to 1000000, got 18446744073709551615",
        ),
        ("layer_norm_eps", json!(null), "got null"),
    ];
    for (key, value, expected) in cases {
        let result = parse::<TextEncoderConfig>(&with(text.clone(), key, value));
        assert_fails(key, result, &[&format!("part/config.json: {key}: "), expected]);
    }
    let index = golden_json("models/sd15/model_index.json");
    let cases = [
        (
            "_class_name",
            json!("StableDiffusionXLPipeline"),
            "StableDiffusionPipeline or StableDiffusionImg2ImgPipeline, got \"StableDiffusionXLPipeline\"",
        ),
        (
            "unet",
            json!(["diffusers", "SD3Transformer2DModel"]),
            "expected UNet2DConditionModel, got \"SD3Transformer2DModel\"",
        ),
        ("text_encoder", json!([null, null]), "expected CLIPTextModel"),
        ("vae", json!([]), "expected AutoencoderKL"),
    ];
    for (key, value, expected) in cases {
        let result = parse::<PipelineIndex>(&with(index.clone(), key, value));
        assert_fails(key, result, &[&format!("part/config.json: {key}: "), expected]);
    }
    let image_to_image = with(index, "_class_name", json!("StableDiffusionImg2ImgPipeline"));
    assert!(parse::<PipelineIndex>(&image_to_image).is_ok());
}

#[test]
fn what_is_no_json_object_is_said_to_be_none() {
    let cases = [
        ("", "expected a JSON object: EOF while parsing a value"),
        ("[1]", "expected a JSON object, got [1]"),
        ("{\"a\":\n1,}", "expected a JSON object: trailing comma"),
        ("{\"act_fn\": \"si\nlu\"}", "expected a JSON object: control character"),
    ];
    for (text, expected) in cases {
        let result = UNetConfig::from_json(Path::new("config.json"), text);
        assert_fails(text, result, &["config.json: ", expected]);
    }
    let deep = "[".repeat(100_000);
    assert_fails("deep", VaeConfig::from_json(Path::new("c"), &deep), &["recursion limit"]);
}
