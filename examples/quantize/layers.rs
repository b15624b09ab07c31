//! Tensors by the layers that they belong to.

use ellesmere::io::tensors::StoredType;

use crate::assign::{Plan, Planned};

/// Tensors that devices hold as one weight, and that have one type for that: queries, keys and values,
/// or one alone.
#[derive(Debug)]
pub struct Layer {
    pub name: String,
    /// Where they are in the plan.
    pub tensors: Vec<usize>,
}

impl Layer {
    /// The layers of those tensors that `includes`, in the order of the plan.
    pub fn all(plan: &Plan, includes: impl Fn(&Planned) -> bool) -> Vec<Self> {
        let mut layers: Vec<Self> = Vec::new();
        for (index, planned) in plan.tensors.iter().enumerate() {
            if !includes(planned) {
                continue;
            }
            let name = name_of(&planned.target.name);
            match layers.iter_mut().find(|layer| layer.name == name) {
                Some(layer) => layer.tensors.push(index),
                None => layers.push(Self { name, tensors: vec![index] }),
            }
        }
        layers
    }

    /// Its tensors.
    pub fn of<'a>(&self, plan: &'a Plan) -> impl Iterator<Item = &'a Planned> {
        self.tensors.iter().map(|&index| &plan.tensors[index])
    }
}

/// The types of a layer's tensors, each once.
pub fn names(stored: impl Iterator<Item = StoredType>) -> String {
    let mut names: Vec<&str> = stored.map(StoredType::name).collect();
    names.dedup();
    names.join("+")
}

/// The layer of a tensor's name: it without `.weight`, and one for all that is fused.
fn name_of(tensor: &str) -> String {
    let name = tensor.strip_suffix(".weight").unwrap_or(tensor);
    let (parent, last) = name.rsplit_once('.').unwrap_or(("", name));
    let of_context = parent.ends_with("attn2");
    match last {
        "to_k" | "to_v" if of_context => format!("{parent}.to_{{k,v}}"),
        "to_q" | "to_k" | "to_v" if !of_context => format!("{parent}.to_{{q,k,v}}"),
        "q_proj" | "k_proj" | "v_proj" => format!("{parent}.{{q,k,v}}_proj"),
        _ => name.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_fused_is_one_layer() {
        for (tensor, layer) in [
            ("unet.a.attn1.to_q.weight", "unet.a.attn1.to_{q,k,v}"),
            ("unet.a.attn1.to_v.weight", "unet.a.attn1.to_{q,k,v}"),
            ("unet.a.attn2.to_q.weight", "unet.a.attn2.to_q"),
            ("unet.a.attn2.to_k.weight", "unet.a.attn2.to_{k,v}"),
            ("text_encoder.a.k_proj.weight", "text_encoder.a.{q,k,v}_proj"),
            ("vae.decoder.conv_in.weight", "vae.decoder.conv_in"),
            ("alone", "alone"),
        ] {
            assert_eq!(name_of(tensor), layer);
        }
    }
}
