//! The loops of a control flow graph.

use crate::isa::assembly::Block;

/// The innermost natural loops, each as the indices of its blocks.
///
/// A loop is what can reach a jump back to its head without passing the head; the head dominates
/// all of it. Jumps back to one head are one loop. One is innermost if no other head lies in it.
pub fn innermost(blocks: &[Block]) -> Vec<Vec<usize>> {
    let order = reverse_postorder(blocks);
    let mut position = vec![usize::MAX; blocks.len()];
    order.iter().enumerate().for_each(|(at, &block)| position[block] = at);
    let mut before = vec![Vec::new(); blocks.len()];
    for &block in &order {
        blocks[block].next.iter().for_each(|&next| before[next].push(block));
    }
    let dominator = dominators(&order, &position, &before);
    let dominates = |head: usize, mut block: usize| {
        while position[block] > position[head] {
            block = dominator[block];
        }
        block == head
    };

    let mut heads: Vec<(usize, Vec<usize>)> = Vec::new();
    for &block in &order {
        for &head in blocks[block].next.iter().filter(|&&head| dominates(head, block)) {
            match heads.iter_mut().find(|(known, _)| *known == head) {
                Some((_, ends)) => ends.push(block),
                None => heads.push((head, vec![block])),
            }
        }
    }
    let loops: Vec<(usize, Vec<usize>)> =
        heads.iter().map(|(head, ends)| (*head, body(*head, ends, &before))).collect();
    let is_innermost = |(head, blocks): &&(usize, Vec<usize>)| {
        !loops.iter().any(|(other, _)| other != head && blocks.contains(other))
    };
    loops.iter().filter(is_innermost).map(|(_, blocks)| blocks.clone()).collect()
}

/// Blocks that the first reaches, each before those that follow it, jumps back apart.
fn reverse_postorder(blocks: &[Block]) -> Vec<usize> {
    let mut seen = vec![false; blocks.len()];
    let mut order = Vec::new();
    // A block and how many of its successors were looked at.
    let mut path = vec![(0, 0)];
    seen[0] = true;
    while let Some((block, tried)) = path.last_mut() {
        match blocks[*block].next.get(*tried) {
            Some(&next) => {
                *tried += 1;
                if !seen[next] {
                    seen[next] = true;
                    path.push((next, 0));
                }
            }
            None => {
                order.push(*block);
                path.pop();
            }
        }
    }
    order.reverse();
    order
}

/// Each block's immediate dominator, by iteration to a fixed point.
fn dominators(order: &[usize], position: &[usize], before: &[Vec<usize>]) -> Vec<usize> {
    let mut dominator = vec![usize::MAX; before.len()];
    dominator[order[0]] = order[0];
    let mut changed = true;
    while changed {
        changed = false;
        for &block in &order[1..] {
            let mut known = before[block].iter().filter(|&&p| dominator[p] != usize::MAX);
            let Some(&first) = known.next() else { continue };
            let common = known.fold(first, |mut a, &b| {
                let mut b = b;
                while a != b {
                    while position[a] > position[b] {
                        a = dominator[a];
                    }
                    while position[b] > position[a] {
                        b = dominator[b];
                    }
                }
                a
            });
            changed |= dominator[block] != common;
            dominator[block] = common;
        }
    }
    dominator
}

fn body(head: usize, ends: &[usize], before: &[Vec<usize>]) -> Vec<usize> {
    let mut blocks = vec![head];
    let mut open = ends.to_vec();
    while let Some(block) = open.pop() {
        if !blocks.contains(&block) {
            blocks.push(block);
            open.extend(&before[block]);
        }
    }
    blocks.sort_unstable();
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(next: &[&[usize]]) -> Vec<Block<'static>> {
        next.iter().map(|next| Block { next: next.to_vec(), ..Block::default() }).collect()
    }

    #[test]
    fn innermost_loops_are_found_whatever_their_shape() {
        // What follows each block, and the innermost loops.
        type Case = (&'static str, &'static [&'static [usize]], &'static [&'static [usize]]);
        let cases: [Case; 6] = [
            ("no loop", &[&[1, 2], &[2], &[]], &[]),
            ("a block that repeats itself", &[&[1], &[1, 2], &[]], &[&[1]]),
            ("a loop in a loop", &[&[1], &[2], &[2, 3], &[1, 4], &[]], &[&[2]]),
            ("a choice inside", &[&[1], &[2, 3], &[4], &[4], &[1, 5], &[]], &[&[1, 2, 3, 4]]),
            ("two jumps back to one head", &[&[1], &[2], &[1, 3], &[1, 4], &[]], &[&[1, 2, 3]]),
            ("what is never reached", &[&[1], &[], &[2, 1]], &[]),
        ];
        for (why, next, expected) in cases {
            assert_eq!(innermost(&graph(next)), expected, "{why}");
        }
    }
}
