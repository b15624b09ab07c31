//! Puts a kernel's source together from the files of `kernels/`.

/// A file of `kernels/`, with its own line numbers in the compiler's messages.
macro_rules! file {
    ($folder:literal, $name:literal) => {
        concat!(
            "#line 1 \"",
            $name,
            "\"\n",
            include_str!(concat!("../../kernels/", $folder, $name))
        )
    };
}

/// The formats of `kernels/quant/`, for so many outputs at a time.
macro_rules! formats {
    ($lanes:literal) => {
        concat!(
            "#define LANES ",
            $lanes,
            "\n",
            file!("quant/", "q8_0.h"),
            file!("quant/", "q4_0.h"),
            file!("quant/", "q4_1.h"),
            file!("quant/", "q5_0.h"),
            file!("quant/", "q5_1.h"),
            file!("quant/", "q4_k.h"),
            file!("quant/", "q5_k.h"),
            file!("quant/", "q6_k.h"),
            file!("quant/", "bf16.h"),
            file!("quant/", "f8_e4m3.h"),
            file!("quant/", "f8_e5m2.h"),
            file!("quant/", "i8.h"),
            "#undef LANES\n"
        )
    };
}

/// A kernel's source behind the prelude and the headers it needs. One that reads `weights` has
/// them in any format.
macro_rules! source {
    ($name:literal $(, $header:literal)*) => {
        concat!(
            include_str!("../../kernels/prelude/portable.h"),
            $(file!("prelude/", $header),)*
            file!("", $name)
        )
    };
    (weights, $name:literal $(, $header:literal)*) => {
        concat!(
            include_str!("../../kernels/prelude/portable.h"),
            file!("quant/", "blocks.h"),
            formats!(4),
            formats!(16),
            file!("prelude/", "weights.h"),
            $(file!("prelude/", $header),)*
            file!("", $name)
        )
    };
}
