use super::*;

/// Four parameters of so many values; candidates whose first two are both large are not allowed.
fn space_of(side: u32) -> Space {
    let names = ["A", "B", "C", "D"].map(str::to_owned);
    let rows = (0..side.pow(4))
        .map(|number| (0..4).map(|axis| number / side.pow(axis) % side).collect::<Vec<u32>>());
    Space::of_values(&names, &rows.filter(|row| row[0] + row[1] < 7).collect::<Vec<_>>())
}

fn space() -> Space {
    space_of(3)
}

/// Seconds with interactions and a ripple; some candidates fail.
fn seconds(space: &Space, candidate: usize) -> Option<f64> {
    let [a, b, c, d] = space.ranks(candidate) else { panic!("four axes") };
    let [a, b, c, d] = [a, b, c, d].map(|&rank| f64::from(rank));
    if c == 4.0 && d == 4.0 {
        return None;
    }
    let bowl = (a - 3.0).powi(2) + (b - 1.0).powi(2) + (a + c - 5.0).powi(2) + (d - 2.0).abs();
    let ripple = 0.2 * ((candidate * 7919 % 13) as f64 / 13.0);
    Some(1e-3 * (1.0 + 0.1 * bowl + ripple))
}

fn asked(
    space: &Space,
    kind: StrategyKind,
    seed: u64,
    starts: &[usize],
    count: usize,
) -> Vec<usize> {
    let mut search = Search::new(space, kind, seed, starts);
    let mut asked = Vec::new();
    while asked.len() < count
        && let Some(candidate) = search.ask()
    {
        asked.push(candidate);
        search.tell(candidate, seconds(space, candidate));
    }
    asked
}

#[test]
fn every_strategy_asks_for_each_candidate_once_and_knows_the_end() {
    let space = space();
    for kind in StrategyKind::ALL {
        let mut all = asked(&space, kind, 1, &[17], usize::MAX);
        assert_eq!(all[0], 17, "{kind} begins with the start");
        all.sort_unstable();
        assert_eq!(all, (0..space.len()).collect::<Vec<_>>(), "{kind}");
    }
}

#[test]
fn a_seed_gives_the_same_candidates_and_another_gives_others() {
    let space = space();
    for kind in StrategyKind::ALL {
        let of = |seed| asked(&space, kind, seed, &[], 30);
        assert_eq!(of(1), of(1), "{kind}");
        assert_eq!(of(1) == of(2), kind == StrategyKind::Exhaustive, "{kind}");
    }
}

#[test]
fn what_is_known_already_is_not_asked_for() {
    let space = space();
    for kind in StrategyKind::ALL {
        let mut search = Search::new(&space, kind, 3, &[5, 5, 9]);
        for candidate in (0..space.len()).filter(|candidate| candidate % 3 != 0) {
            search.tell(candidate, seconds(&space, candidate));
        }
        let mut asked = Vec::new();
        while let Some(candidate) = search.ask() {
            asked.push(candidate);
            search.tell(candidate, None);
        }
        assert_eq!(asked[0], 9, "{kind}: 5 was told");
        assert!(asked.iter().all(|candidate| candidate % 3 == 0), "{kind}");
        assert_eq!(asked.len(), space.len().div_ceil(3), "{kind}");
    }
}

#[test]
fn a_search_goes_on_where_every_candidate_fails() {
    let space = space();
    for kind in StrategyKind::ALL {
        let mut search = Search::new(&space, kind, 0, &[0]);
        let mut count = 0;
        while let Some(candidate) = search.ask() {
            search.tell(candidate, None);
            count += 1;
        }
        assert_eq!((count, search.best()), (space.len(), None), "{kind}");
    }
}

#[test]
fn times_that_are_no_times_are_failures() {
    let space = space();
    let mut search = Search::new(&space, StrategyKind::Model, 0, &[]);
    for seconds in [f64::NAN, f64::INFINITY, 0.0, -1.0] {
        let candidate = search.ask().unwrap();
        search.tell(candidate, Some(seconds));
    }
    assert_eq!(search.best(), None);
}

#[test]
fn the_default_strategy_reaches_95_percent_in_5_percent_of_the_candidates() {
    let space = space_of(5);
    let all = (0..space.len()).filter_map(|candidate| seconds(&space, candidate));
    let best = all.fold(f64::INFINITY, f64::min);
    let budget = space.len() / 20;
    let seeds = 20;
    let fractions: Vec<f64> = (0..seeds)
        .map(|seed| {
            let found = asked(&space, StrategyKind::default(), seed, &[0], budget);
            let found = found.iter().filter_map(|&candidate| seconds(&space, candidate));
            best / found.fold(f64::INFINITY, f64::min)
        })
        .collect();
    let mean = fractions.iter().sum::<f64>() / seeds as f64;
    assert!(mean >= 0.95, "{mean}: {fractions:?}");
}

#[test]
fn an_unknown_strategy_is_named() {
    let error = "luck".parse::<StrategyKind>().unwrap_err().to_string();
    let expected =
        "strategy: expected one of exhaustive, random, anneal, local, model, got \"luck\"";
    assert_eq!(error, expected);
}
