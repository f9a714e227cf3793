//! A producer that is late or fails costs its own values, not those of producers after it (defect A-8 of
//! `spec/scheduling.md`, A.3#22 of `spec/request-path.md`).

use std::{sync::Arc, time::Duration};

use router_core::{Column, Position};
use router_framework::{
    BuildCx, BuildError, DataKey, DataProducer, Instance, NoParams, Outputs, PluginDef,
    ProduceError, Produced, Read, RequestCx, Role, Scorer, Write,
};
use router_testkit::router::{RouterBuilder, head};

use crate::roles::{CHAT, CHAT_PATH};

const LATE: DataKey<Column<f64>> = DataKey::new("Late", "late-producer");
const QUICK: DataKey<Column<f64>> = DataKey::new("Quick", "quick-producer");

const LATE_PRODUCER: PluginDef =
    PluginDef::new::<NoParams>("late-producer", &[Role::DataProducer], file!(), |cx| {
        let write = cx.writes(&LATE);
        Ok(Instance::new().producer(Arc::new(Late { write })))
    });
const QUICK_PRODUCER: PluginDef =
    PluginDef::new::<NoParams>("quick-producer", &[Role::DataProducer], file!(), quick);
const READER: PluginDef = PluginDef::new::<NoParams>("reader", &[Role::Scorer], file!(), |cx| {
    let reader = Reader { late: cx.reads(&LATE, ""), quick: cx.reads(&QUICK, "") };
    Ok(Instance::new().scorer(Arc::new(reader)))
});

fn quick(cx: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    // The second waits for the first, so that it would be lost if the first stopped those after it.
    let _after = cx.reads_optional(&LATE, "");
    let write = cx.writes(&QUICK);
    Ok(Instance::new().producer(Arc::new(Quick { write })))
}

/// Prefers the last endpoint, an hour too late.
struct Late {
    write: Write<Column<f64>>,
}

impl DataProducer for Late {
    fn produce<'a>(&'a self, cx: &RequestCx<'a>) -> Produced<'a> {
        if cx.request.header(&http::header::EXPECT).is_some() {
            return Produced::Ready(Err(ProduceError("it has no idea".to_owned())));
        }
        let column: Column<f64> = cx.candidates.positions().map(|p| f64::from(p.0)).collect();
        Produced::Later(Box::pin(async move {
            tokio::time::sleep(Duration::from_hours(1)).await;
            Ok(Outputs::of(&self.write, column))
        }))
    }
}

/// Prefers the first endpoint.
struct Quick {
    write: Write<Column<f64>>,
}

impl DataProducer for Quick {
    fn produce<'a>(&'a self, cx: &RequestCx<'a>) -> Produced<'a> {
        let column: Column<f64> = cx.candidates.positions().map(|p| 1.0 - f64::from(p.0)).collect();
        Produced::Ready(Ok(Outputs::of(&self.write, column)))
    }
}

struct Reader {
    late: Read<Column<f64>>,
    quick: Read<Column<f64>>,
}

impl Scorer for Reader {
    fn score(&self, cx: &RequestCx<'_>, positions: &[Position], out: &mut [f64]) {
        for (out, position) in out.iter_mut().zip(positions) {
            assert_eq!(cx.column(&self.late, *position), None);
            *out = cx.column(&self.quick, *position).copied().unwrap_or(f64::NAN);
        }
    }
}

const CONFIG: &str = "
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: late-producer
- type: quick-producer
- type: reader
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: reader, weight: 1}
";

#[tokio::test(start_paused = true)]
async fn a08_a_late_or_failed_producer_costs_only_its_own_column() {
    let world = RouterBuilder::new(CONFIG)
        .plugin(&LATE_PRODUCER)
        .plugin(&QUICK_PRODUCER)
        .plugin(&READER)
        .settings(|settings| {
            settings.decisions.sampling = 1.0;
            settings.emit_endpoint_scores = true;
        })
        .endpoints(2)
        .build();
    let check = async |expectation: Option<&str>, cause: &str, took: Duration| {
        let mut head = head(CHAT_PATH);
        if let Some(value) = expectation {
            head = router_testkit::router::with_header(head, "expect", value);
        }
        let started = world.clock().now();
        let routed = world.decide(head, CHAT).await.unwrap();
        assert_eq!(world.clock().now().since(started), took);
        let scores: Vec<f64> = routed.scores.unwrap().into_iter().map(|(_, score)| score).collect();
        assert_eq!(scores, [1.0, 0.0]);
        assert_eq!(world.decisions().records()[0].failed_producers, [cause]);
    };
    check(None, "late-producer: no answer within 400ms", Duration::from_millis(400)).await;
    check(Some("x"), "late-producer: it has no idea", Duration::ZERO).await;
}
