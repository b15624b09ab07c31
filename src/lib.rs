//! Diffusion models on the GPU that you have: through OpenCL or HIP, on the CPU when there is
//! nothing else.
//!
//! # Where to start
//!
//! - You have a prompt: [`pipeline::Pipeline`], which the example program `sd` is built on.
//! - You have layers of your own: [`Device::open`], [`Tensor::from_array`], and the functions of
//!   [`ops`].
//! - You write kernels: `kernels/README.md` and the program `clbench`.
//!
//! ```
//! use ellesmere::{DType, Device, Tensor, ops};
//! use ndarray::array;
//!
//! let device = Device::cpu(); // or Device::open("auto", &Default::default())?
//! let x = array![[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]].into_dyn();
//! let x = Tensor::from_array(&device, x.view(), DType::F32)?;
//! let weights = ops::Weights::linear(&device, DType::F32, [2, 3], || {
//!     Ok(vec![1.0, 0.0, 0.0, /* the second output: */ 1.0, 1.0, 1.0])
//! })?;
//! let y = ops::gemm(&x, None, &weights, ops::Epilogue::default())?;
//! assert_eq!(y.to_array()?, array![[1.0, 6.0], [4.0, 15.0]].into_dyn());
//! # Ok::<(), ellesmere::Error>(())
//! ```
//!
//! # The map
//!
//! A module uses only floors below its own.
//!
//! | floor | modules | what |
//! |---|---|---|
//! | 6 | [`pipeline`], [`models`] | prompts to pictures: schedulers, CLIP, UNet, VAE, their files |
//! | 6 | [`bench`](mod@bench) | how fast each op is, how fast the device can be, what binds |
//! | 5 | [`nn`] | layers: weights with the ops that use them |
//! | 4 | [`ops`] | what users call: shapes checked, an algorithm chosen, kernels launched |
//! | 4 | [`quant`] | weights in blocks of few bits: what they stand for, and how they are chosen |
//! | 3 | [`tensor`], [`device`] | arrays; a backend with its memory, programs and profile |
//! | 2 | [`memory`], [`kernel`], [`isa`], [`tune`], [`profile`], [`hardware`] | mechanisms that know no tensors |
//! | 1 | [`backend`] | the machine: OpenCL, HIP, the CPU, the dry run |
//! | 0 | [`error`], [`dtype`], [`format`](mod@format), [`info`], [`knob`], [`io`] | vocabulary; files in, files out |
//!
//! A convolution passes through four functions of ours: [`ops::conv2d()`] checks shapes and plans,
//! `Device::run` finds the program and notes the launch, [`backend::Backend::launch`] queues it.
//!
//! # What always holds
//!
//! - Activations are **channels last**: `[N, H, W, C]`, tokens `[N, L, C]`. Files and pictures keep
//!   the ecosystem's order; the conversion stands at that border alone.
//! - **Storage** is f32 or f16, of weights also blocks of few bits, f8 or bf16; **arithmetic** is f32, but that
//!   matrix units multiply f16 that is stored as such, and sum in f32, and that matrices are multiplied
//!   in bytes where a weight asks for it ([`ops::Products`]). Masks are large finite values: kernels
//!   never rely on infinities or NaN.
//! - Each kernel has a **definition** in plain Rust that accumulates in f64. Every device agrees
//!   with it, within a tolerance that its test derives, or is wrong.
//! - What a caller can get wrong is found **before the first launch** and names the argument and
//!   what arrived. A device's own failure leaves existing tensors valid: the next call works.
//! - Every byte on a device comes from its [`memory::MemoryManager`]. A **dry run** takes the same
//!   decisions as the real one, so its peak is the real peak to the byte. What is parked on the
//!   host is counted beside it. No request is over the largest allocation: what is larger lies in
//!   bands or pieces.
//! - A **configuration** changes how long a kernel takes, not what it computes. It comes from what is
//!   forced, the user's file, shipped files, the op, in this order ([`tune`]); what does not fit the
//!   kernel as it is answers nothing, and is said.
//! - The **same seed** is the same picture on every device, to rounding: noise is drawn on the
//!   host, sums have a fixed order, nothing is added atomically.
//! - No global device and no global settings; every public type is `Send + Sync`.
//!
//! # Glossary
//!
//! | word | meaning |
//! |---|---|
//! | device | an opened GPU, or the host |
//! | backend | the implementation behind a device |
//! | work-item, work-group, local memory, compute unit | as OpenCL has them |
//! | word | a function that kernels are written in, and compilers may have instructions for |
//! | fragment; team | 16 outputs or rows by 16 terms of f16; the work-items that hold and multiply them together, on a matrix unit where there is one |
//! | kernel; program | an entry point in `kernels/`; a compiled one |
//! | op; layer | checks, plans, launches; an op with its weights |
//! | definition; fast path | a kernel in plain Rust; its quick twin on the CPU |
//! | problem; algorithm | the sizes that decide speed; how it is computed |
//! | parameter, value, space, constraint | an integer that a kernel is specialised by; what it may be; what must hold |
//! | configuration, candidate | a value for each parameter; one that a tuner tries |
//! | strategy; recording, replay | how a search goes on; what came of every candidate, and a search of that without a device |
//! | entry; class | a configuration that the database holds; the sizes that it is for |
//! | guard | a zone of a pattern beside a block, by which a write outside it is found |
//! | stand-in | a source that is built instead of a kernel's own |
//! | suite | the problems of a whole model |
//! | knob; flag | an environment variable; a command-line option |
//! | preset; peak | what the data sheet of known hardware says; what was measured at most |
//! | profile, record; trace | measured launches; the timeline file |
//! | resident; offloaded | where a weight is: on the device; on the host, or in its file, and copied for each use |
//! | transfer; slot | a copy to the device beside its launches; a block that such copies go to |
//! | band | the part of a tensor that lies in one block of memory |
//! | piece | the outputs of a weight that lie in one block of memory |
//! | tile; parked | a part of a picture that is worked on at a time: rows of it, or a square that is blended; on the host until it is wanted |
//! | panel | 32 outputs of a weight, interleaved for the kernels |
//! | format; block; level, scale | how weights of few bits are stored, as GGUF has it, or as numbers of 8 or 16 bits; values with scales of their own; a weight is a level times a scale |
//! | part; rung | work that is repeated as a whole where memory runs out; what is done first so that it needs less |
//! | launch limit; part of a launch | for how long a launch may keep the device; some of its work-groups, which are launched by themselves |
//! | plan; times; choice | what drawing takes, by a dry run; how long, by launches timed one by one; a way to run a model |
//! | M, N, K; N, H, W, C; O, I, kH, kW | sizes, always in this order |
//! | latent, timestep, sigma, scheduler, guidance scale | as diffusers has them |

pub mod backend;
pub mod bench;
pub mod device;
pub mod dtype;
pub mod error;
pub mod format;
pub mod hardware;
pub mod info;
pub mod io;
pub mod isa;
pub mod kernel;
pub mod knob;
pub mod memory;
pub mod models;
pub mod nn;
pub mod ops;
pub mod pipeline;
pub mod profile;
pub mod quant;
pub mod tensor;
pub mod tune;

pub use device::{Device, DeviceOptions, Stage};
pub use dtype::DType;
pub use error::{Error, Result};
pub use format::Format;
pub use tensor::Tensor;
