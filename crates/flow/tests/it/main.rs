//! What flow control costs, by ratios and bounds that hold on any machine. Figures are in `bench/benches/flow.rs`.

mod cost;
mod memory;
mod world;

/// One after the other, since what one takes would count for the other.
#[test]
fn what_flow_control_costs_is_bounded() {
    memory::a_request_that_waits_takes_less_than_a_kibibyte();
    memory::flows_that_are_gone_take_nothing();
    memory::subsets_that_are_gone_take_nothing();
    cost::fifty_times_the_flows_do_not_cost_ten_times_as_much();
}
