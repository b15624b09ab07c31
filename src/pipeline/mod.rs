//! What turns a model's layers into pictures.

#![forbid(unsafe_code)]

pub mod noise;
pub mod scheduler;
