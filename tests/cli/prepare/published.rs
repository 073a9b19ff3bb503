//! The splits of LDAM-DRW and of GLMC's authors against indices that NumPy produced (`tools/make_split_indices.py`).

use glmc_engine::data::longtail::{LongTail, Pick, Profile};

#[derive(serde::Deserialize)]
struct Case {
    split: Pick,
    total: usize,
    classes: usize,
    imbalance: f64,
    profile: Profile,
    seed: u64,
    counts: Vec<usize>,
    kept: usize,
    checksum: String,
    first: Vec<Vec<usize>>,
}

#[test]
fn the_published_splits_are_numpys_index_for_index() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("../../fixtures/split_indices.json")).unwrap();
    assert_eq!(cases.len(), 20);
    for case in cases {
        let what =
            format!("{:?}, {} images, {} classes, imbalance {}", case.split, case.total, case.classes, case.imbalance);
        let labels: Vec<i32> = (0..case.total).map(|i| ((i * 7 + i / case.classes) % case.classes) as i32).collect();
        let rule = LongTail { imbalance: case.imbalance, profile: case.profile, split: case.split, seed: case.seed };
        let chosen = rule.select(&labels, case.classes).unwrap();
        assert_eq!(chosen.counts, case.counts, "{what}");
        assert_eq!(chosen.indices.len(), case.kept, "{what}");
        let mut rest = &chosen.indices[..];
        for (class, first) in case.first.iter().enumerate() {
            let (own, after) = rest.split_at(case.counts[class]);
            assert_eq!(&own[..first.len().min(own.len())], &first[..], "{what}, class {class}");
            rest = after;
        }
        let sum = chosen.indices.iter().fold(0u64, |h, &i| h.wrapping_mul(1_099_511_628_211).wrapping_add(i as u64));
        assert_eq!(sum.to_string(), case.checksum, "{what}");
    }
}
