//! Facts of upstream's `cpu_assignment_test.go`.

use super::*;
use crate::machine::testing::{
    dual_socket_ht, dual_socket_multi_numa_ht, single_socket_ht, uncore_no_ht,
};

fn set(text: &str) -> CpuSet {
    CpuSet::parse(text).unwrap()
}

#[test]
fn packed_cpus_fill_what_is_largest() {
    let (single, dual, multi) = (
        single_socket_ht(),
        dual_socket_ht(),
        dual_socket_multi_numa_ht(),
    );
    for (machine, available, count, expected) in [
        (&single, "0-7", 0, ""),
        (&single, "0-7", 1, "0"),
        (&single, "1,3,5,6,7", 1, "6"),
        (&single, "0-7", 2, "0,4"),
        (&single, "0-7", 8, "0-7"),
        (&single, "0-3,6", 2, "2,6"),
        (&dual, "0-11", 6, "0,2,4,6,8,10"),
        (&dual, "1-5,7-11", 1, "2"),
        (&dual, "0-11", 8, "0,6,2,8,4,10,1,7"),
        (&multi, "0-79", 40, "0-19,40-59"),
        (&multi, "0-79", 20, "0-9,40-49"),
        (&multi, "10-39,50-79", 20, "10-19,50-59"),
        (&multi, "0-79", 60, "0-29,40-69"),
        (&multi, "1-39,41-79", 60, "10-39,50-79"),
        (&multi, "0-79", 64, "0-29,40-69,30,31,70,71"),
    ] {
        let got = take_packed(machine, &set(available), count, false).unwrap();
        assert_eq!(got, set(expected), "{count} of {available}");
    }
    assert_eq!(
        take_packed(&single, &set("0,2,4,6"), 5, false).unwrap_err(),
        "not enough cpus available to satisfy request: requested=5, available=4"
    );
}

#[test]
fn groups_of_a_cache_stay_together() {
    let machine = uncore_no_ht();
    for (available, count, expected) in [
        ("0-15", 4, "0-3"),
        ("2-15", 6, "2-7"),
        ("8-15", 4, "8-11"),
        ("1-15", 10, "1,2,4-11"),
        ("0-1,4-7", 2, "0-1"),
        ("0,4-7", 2, "4-5"),
    ] {
        let got = take_packed(&machine, &set(available), count, true).unwrap();
        assert_eq!(got, set(expected), "{count} of {available}");
    }
}

#[test]
fn distributed_cpus_leave_an_even_rest() {
    let multi = dual_socket_multi_numa_ht();
    for (available, count, group, expected) in [
        (
            "0-79",
            64,
            1,
            "0-7,10-17,20-27,30-37,40-47,50-57,60-67,70-77",
        ),
        ("0-79", 48, 1, "0-7,10-17,20-27,40-47,50-57,60-67"),
        (
            "1-29,32-39,41-69,72-79",
            48,
            1,
            "1-8,10-17,20-27,41-48,50-57,60-67",
        ),
        (
            "2-29,31-39,42-69,71-79",
            48,
            1,
            "10-17,20-27,31-38,50-57,60-67,71-78",
        ),
        (
            "0-2,10-12,20-22,30-32,40-41,50-51,60-61,70-71",
            16,
            1,
            "0-1,10-11,20-21,30-31,40-41,50-51,60-61,70-71",
        ),
        ("0-79", 26, 1, "0-6,10-16,40-45,50-55"),
        ("0-79", 26, 2, "0-6,10-15,40-46,50-55"),
        (
            "0-79",
            62,
            1,
            "0-7,10-17,20-27,30-37,40-47,50-57,60-66,70-76",
        ),
        (
            "0-79",
            62,
            2,
            "0-7,10-17,20-27,30-36,40-47,50-57,60-67,70-76",
        ),
        (
            "0-8,10-18,20-39,40-48,50-58,60-79",
            62,
            1,
            "0-7,10-17,20-27,30-37,40-46,50-56,60-67,70-77",
        ),
        (
            "0-8,10-18,20-39,40-48,50-58,60-79",
            62,
            2,
            "0-7,10-16,20-27,30-37,40-47,50-56,60-67,70-77",
        ),
        (
            "0-3,10-13,20-23,30-36,40-43,50-53,60-63,70-76",
            34,
            1,
            "0-3,10-13,20-23,30-34,40-43,50-53,60-63,70-74",
        ),
    ] {
        let got = take_distributed(&multi, &set(available), count, group).unwrap();
        assert_eq!(got, set(expected), "{count} of {available} by {group}");
    }
    let dual = dual_socket_ht();
    let one = |group| take_distributed(&dual, &set("1-5,7-11"), 1, group).unwrap();
    assert_eq!((one(1), one(2)), (set("1"), set("2")));
}
