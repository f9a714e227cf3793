//! Behaviours that hold whatever stands in front.

pub(crate) mod affinity;
pub(crate) mod balance;
pub(crate) mod bytes;
pub(crate) mod changes;
pub(crate) mod failure;
pub(crate) mod headers;
pub(crate) mod queueing;
pub(crate) mod refusal;
pub(crate) mod rewrite;
pub(crate) mod sdk;

/// One test per behaviour, over the given front.
macro_rules! suite {
    ($front:expr; $($name:ident => $check:path;)*) => {
        $(
            #[tokio::test]
            async fn $name() -> crate::system::Outcome {
                $check($front).await
            }
        )*
    };
    ($front:expr) => {
        $crate::system::suite::suite! { $front;
            the_openai_sdk_works => crate::system::suite::sdk::openai;
            the_anthropic_sdk_works => crate::system::suite::sdk::anthropic;
            bytes_pass_unchanged_both_ways => crate::system::suite::bytes::unchanged;
            a_client_that_leaves_ends_its_request_at_the_server => crate::system::suite::bytes::left;
            a_conversation_stays_and_moves_when_its_endpoint_is_full
                => crate::system::suite::affinity::conversation;
            a_burst_never_lands_on_a_busier_endpoint => crate::system::suite::balance::burst;
            parallel_deciders_are_off_by_one_at_most => crate::system::suite::balance::parallel;
            a_killed_endpoint_is_left_and_comes_back => crate::system::suite::failure::killed;
            metrics_that_lie_cost_no_request => crate::system::suite::failure::metrics;
            what_clients_forge_reaches_nobody => crate::system::suite::headers::forged;
            requests_have_an_id => crate::system::suite::headers::request_id;
            heads_without_bodies_and_trailers_pass => crate::system::suite::headers::bodyless;
            the_model_name_is_rewritten_and_restored => crate::system::suite::rewrite::restored;
            a_canary_gets_its_share => crate::system::suite::rewrite::canary;
            bad_requests_are_refused => crate::system::suite::refusal::bad_requests;
            sheddable_requests_are_refused_at_saturation => crate::system::suite::refusal::saturated;
            overload_queues_and_sheds_in_order_of_priority
                => crate::system::suite::queueing::overload;
            the_openai_sdk_sees_only_sheddable_requests_refused
                => crate::system::suite::queueing::openai_sdk;
            requests_wait_for_the_first_endpoint => crate::system::suite::queueing::from_zero;
            a_pool_that_empties_says_so_to_those_who_wait
                => crate::system::suite::queueing::to_zero;
            who_runs_makes_room_for_the_important => crate::system::suite::queueing::evicted;
            a_new_configuration_loses_none_who_wait
                => crate::system::suite::queueing::reloaded;
            endpoints_come_and_go_under_load => crate::system::suite::changes::endpoints;
            a_pool_changes_under_load => crate::system::suite::changes::resources;
            a_new_configuration_takes_over_under_load
                => crate::system::suite::changes::configuration;
        }
    };
}

pub(crate) use suite;
