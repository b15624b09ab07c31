//! See `kernels/token_embedding.cl`.

use super::{Arguments, PANEL};

pub fn definition(arguments: &Arguments) {
    let ids = arguments.uints("ids");
    let (tokens, positions) = (arguments.weights("tokens"), arguments.reals("positions"));
    let (rows, channels) = (arguments.size("rows"), arguments.size("channels"));
    let first_row = arguments.size("first_row");
    let mut y = arguments.reals_out("y");
    let count = arguments.size("samples") * rows;
    for (index, id) in ids[..count].iter().enumerate() {
        let (id, position) = (*id as usize, first_row + index % rows);
        for channel in 0..channels {
            let token =
                f64::from(tokens.get((id / PANEL * channels + channel) * PANEL + id % PANEL));
            let place = f64::from(positions.get(position * channels + channel));
            y.set(index * channels + channel, token + place);
        }
    }
}
