use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u16, Hope),
    Delete(u8, Hope),
    Compact(u8),
    Reopen,
}

#[derive(Clone, Copy, Debug)]
enum Hope {
    Any,
    Absent,
    Right,
    Wrong,
}

fn step() -> impl Strategy<Value = Step> {
    let hope = prop_oneof![
        Just(Hope::Any),
        Just(Hope::Absent),
        Just(Hope::Right),
        Just(Hope::Wrong)
    ];
    prop_oneof![
        8 => (0..6u8, any::<u16>(), hope.clone()).prop_map(|(k, v, h)| Step::Put(k, v, h)),
        3 => (0..6u8, hope).prop_map(|(k, h)| Step::Delete(k, h)),
        1 => (0..10u8).prop_map(Step::Compact),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// The store does what a list of whole states does.
    #[test]
    fn behaves_like_a_list_of_states(steps in prop::collection::vec(step(), 1..40)) {
        type Snapshot = BTreeMap<String, Arc<KeyValue>>;
        let dir = TempDir::new().unwrap();
        // A log that is hardly ever rotated, so that a restart keeps history.
        let options = EmbeddedOptions { history_changes: 25, ..EmbeddedOptions::default() };
        run(async {
            let mut store = EmbeddedStore::open(dir.path(), options.clone()).unwrap();
            let mut states: Vec<Snapshot> = vec![BTreeMap::new(), BTreeMap::new()];
            for step in steps {
                let newest = states.len() as u64 - 1;
                let now = states.last().unwrap().clone();
                let expect = |key: &str, hope| match hope {
                    Hope::Any => Expect::Any,
                    Hope::Absent => Expect::Absent,
                    Hope::Right => Expect::Revision(now.get(key).map_or(1, |kv| kv.mod_revision)),
                    Hope::Wrong => Expect::Revision(1),
                };
                let holds = |key: &str, expect| match expect {
                    Expect::Any => true,
                    Expect::Absent => !now.contains_key(key),
                    Expect::Revision(r) => now.get(key).is_some_and(|kv| kv.mod_revision == r),
                };
                match step {
                    Step::Put(k, v, hope) => {
                        let key = format!("/{k}");
                        let expect = expect(&key, hope);
                        let value = Bytes::from(v.to_string());
                        let answer = store.put(&key, value.clone(), expect).await;
                        if holds(&key, expect) {
                            let kv = answer.unwrap();
                            let create_revision = now.get(&key).map_or(newest + 1, |kv| kv.create_revision);
                            let mod_revision = newest + 1;
                            assert_eq!(*kv, KeyValue { key: key.as_str().into(), value, create_revision, mod_revision });
                            let mut next = now.clone();
                            next.insert(key, kv);
                            states.push(next);
                        } else {
                            assert_eq!(answer, Err(StoreError::Conflict { found: now.get(&key).cloned() }));
                        }
                    }
                    Step::Delete(k, hope) => {
                        let key = format!("/{k}");
                        let expect = expect(&key, hope);
                        let answer = store.delete(&key, expect).await;
                        let mut next = now.clone();
                        match (holds(&key, expect), next.remove(&key)) {
                            (true, Some(before)) => {
                                assert_eq!(answer, Ok((before, newest + 1)));
                                states.push(next);
                            }
                            (_, found) => assert_eq!(answer, Err(StoreError::Conflict { found })),
                        }
                    }
                    Step::Compact(back) => store.compact(newest.saturating_sub(back.into())).await.unwrap(),
                    Step::Reopen => {
                        drop(store);
                        store = EmbeddedStore::open(dir.path(), options.clone()).unwrap();
                    }
                }
                let newest = states.len() as u64 - 1;
                assert_eq!(store.revision(), newest);
                let oldest = store.shared.state.read().oldest();
                assert!(newest - oldest <= 25);
                let mut replayed = states[oldest as usize].clone();
                let mut watch = store.watch("/", oldest).await.unwrap();
                if oldest < newest {
                    for change in watch.recv().await.unwrap().unwrap().changes {
                        let state = &states[change.revision() as usize];
                        assert_eq!(change.before(), replayed.get(&**change.key()));
                        match change.after() {
                            Some(kv) => replayed.insert(kv.key.to_string(), kv.clone()),
                            None => replayed.remove(&**change.key()),
                        };
                        assert_eq!(&replayed, state);
                    }
                }
                for revision in oldest..=newest {
                    let options = ListOptions { revision: Some(revision), ..ListOptions::default() };
                    let page = store.list("/", options.clone()).await.unwrap();
                    let expected: Vec<_> = states[revision as usize].values().cloned().collect();
                    assert_eq!(page.items, expected);
                    let options = ListOptions { limit: 2, after: Some("/2".into()), ..options };
                    let page = store.list("/", options).await.unwrap();
                    let after: Vec<_> = states[revision as usize].values().filter(|kv| &*kv.key > "/2").cloned().collect();
                    assert_eq!(page.items, after[..after.len().min(2)]);
                    assert_eq!(page.remaining as usize, after.len().saturating_sub(2));
                }
            }
        });
    }
}
