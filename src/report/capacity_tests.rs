//! What is made of whole searches on a model server.

use super::*;
use crate::capacity::{MODEL_PROFILE, model_answer};
use crate::report::paste::tests::yaml;

fn text_of(a: &Answer, name: &str) -> String {
    files(a).into_iter().find(|(n, _)| *n == name).unwrap().1
}

fn page_of(a: &Answer) -> String {
    let limits = [("audio.delay.p99", 80.0), ("video.delay.p99", 120.0), ("setup.total.p95", 200.0)]
        .map(|(m, v)| (m.to_owned(), v));
    section(Some(a), &limits).into_string()
}

#[test]
fn files_have_the_numbers_of_the_answer() {
    let a = model_answer(MODEL_PROFILE, 101);
    assert_eq!((a.lower, a.upper, a.threshold.unwrap().participants), (Some(100), Some(104), 88));
    let head = "# One server carries 100–104 participants; scale out at 88 = 100 − 9 (lost servers) − 3 (growth).\n";
    assert_eq!(
        text_of(&a, "capacity.env"),
        format!("{head}PARTICIPANTS_LOWER=100\nPARTICIPANTS_UPPER=104\nSCALE_OUT_AT=88\n")
    );
    let (keda, hpa) = (text_of(&a, "keda-scaledobject.yaml"), text_of(&a, "hpa.yaml"));
    assert!(keda.starts_with(head) && hpa.starts_with(head), "{keda}");
    let (keda, hpa) = (yaml(&keda), yaml(&hpa));
    assert_eq!((&keda["kind"], &hpa["kind"]), (&"ScaledObject".into(), &"HorizontalPodAutoscaler".into()));
    let spec = &keda["spec"];
    assert_eq!((&spec["minReplicaCount"], &spec["maxReplicaCount"]), (&2.into(), &24.into()));
    assert_eq!(spec["triggers"][0]["metadata"]["threshold"], "80");
    let spec = &hpa["spec"];
    assert_eq!((&spec["minReplicas"], &spec["maxReplicas"]), (&2.into(), &24.into()));
    assert_eq!(spec["metrics"][0]["external"]["target"]["averageValue"], "80");
}

#[test]
fn without_answer_nothing_is_said_of_a_fleet() {
    let profile = MODEL_PROFILE.split("[answer]").next().unwrap();
    let a = model_answer(profile, 101);
    let head = "# One server carries 100–104 participants; scale out at 100, with no headroom: there is no [answer].\n";
    for (name, text) in files(&a) {
        assert!(text.starts_with(head) && !text.contains("lost"), "{name}: {text}");
        assert!(!text.contains("as many as [answer] has"), "{name}: {text}");
    }
    let (keda, hpa) = (yaml(&text_of(&a, "keda-scaledobject.yaml")), yaml(&text_of(&a, "hpa.yaml")));
    assert_eq!((&keda["spec"]["minReplicaCount"], &hpa["spec"]["minReplicas"]), (&1.into(), &1.into()));
    assert!(keda["spec"]["maxReplicaCount"].is_null() && hpa["spec"]["maxReplicas"].is_null());
    assert_eq!(serde_json::to_value(a.threshold).unwrap()["servers"], serde_json::Value::Null);
}

/// Of a plot of the page: its SVG.
fn plot<'a>(page: &'a str, title: &str) -> &'a str {
    let (_, rest) = page.split_once(&format!("<h3>{title}</h3>")).unwrap_or_else(|| panic!("no {title}"));
    rest.split("</figure>").next().unwrap()
}

#[test]
fn each_plot_has_the_limits_of_its_lines() {
    let a = model_answer(MODEL_PROFILE, 101);
    let page = page_of(&a);
    let delay = plot(&page, "Delay p99");
    assert!(delay.contains("class=\"limit own c0\"") && delay.contains("<title>limit 80 ms</title>"), "{delay}");
    assert!(delay.contains("class=\"limit own c1\"") && delay.contains("<title>limit 120 ms</title>"), "{delay}");
    let setup = plot(&page, "Set-up time p95");
    assert!(setup.contains("class=\"limit own c4\"") && setup.contains("<title>limit 200 ms</title>"), "{setup}");
    assert!(plot(&page, "CPU of the server").contains("class=\"limit\""));
    // What has no objective has no line.
    assert!(!plot(&page, "Loss").contains("class=\"limit"));
}

#[test]
fn the_curve_shows_where_delay_left_its_plateau_and_where_cpu_would_have_fired() {
    // 70 % of a core at 0.5 % each is 140 participants; 180 are carried.
    let a = model_answer(MODEL_PROFILE, 181);
    let page = page_of(&a);
    let (knee, trigger) = (a.knee.clone().unwrap(), a.cpu_trigger.unwrap());
    assert!(knee.below <= 180 && knee.participants > 180, "{knee:?}");
    let fired = number(trigger.participants.unwrap());
    for title in ["Delay p99", "CPU of the server"] {
        let plot = plot(&page, title);
        for mark in [
            format!("delay off its plateau {}", knee.participants),
            format!("70 % CPU {fired}"),
            format!("held {}", a.lower.unwrap()),
            format!("broke {}", a.upper.unwrap()),
            format!("scale out {}", a.threshold.unwrap().participants),
        ] {
            assert!(plot.contains(&mark), "{title}: {mark}\n{plot}");
        }
    }
    // Soft marks are of these two alone.
    assert!(!plot(&page, "Broken participant-seconds").contains("70 % CPU"));
    let sentence = format!(
        "audio delay p99 left its plateau of {} ms between {} and {} participants ({} ms there).",
        number(knee.plateau),
        knee.below,
        knee.participants,
        number(knee.delay)
    );
    assert!(page.contains(&sentence), "{sentence}");
    assert!((1.9..2.1).contains(&knee.plateau) && knee.delay > 300.0, "{knee:?}");
    let early = number(-trigger.late_by.unwrap());
    let words = format!("A 70 % CPU trigger would have fired at {fired} participants: {early} too early.");
    assert!(page.contains(&words), "{words}");
}

#[test]
fn a_trigger_on_cpu_may_be_too_late_or_never_fire() {
    let profile = MODEL_PROFILE.replace("8..240", "8..256");
    // From 64 %, at 128, to 128 %, at 256: beyond what is carried.
    let a = model_answer(&profile, 131);
    let trigger = a.cpu_trigger.unwrap();
    let (fired, threshold) = (trigger.participants.unwrap(), f64::from(a.threshold.unwrap().participants));
    assert!(fired > 131.0 && trigger.late_by == Some(fired - threshold), "{trigger:?}");
    let late = number(fired - threshold);
    let words = format!("A 70 % CPU trigger would have fired at {} participants: {late} too late.", number(fired));
    assert_eq!(trigger.words(), words);
    assert!(page_of(&a).contains(&words));
    // 128, of which 100 are carried, read 64 %.
    let a = model_answer(&profile, 101);
    let trigger = a.cpu_trigger.unwrap();
    assert_eq!((trigger.participants, trigger.late_by, trigger.broke), (None, None, true));
    let page = page_of(&a);
    assert!(page.contains("A 70 % CPU trigger would never have fired: CPU stayed below it beyond the breakage."));
    assert!(!plot(&page, "CPU of the server").contains("70 % CPU "), "no mark where it never was");
}
