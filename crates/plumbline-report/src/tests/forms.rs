//! HTML, XLSX and PNG of hostile input.

use std::collections::BTreeMap;
use std::io::Read;

use plumbline_divergence::{Cause, ClusteredSums, SufficientStatistics};
use serde_json::json;

use super::{Always, Sequence, collected, even, facts, finding};
use crate::{CrossComparison, EngineFacts, Facts, InputFacts, Report};

const HOSTILE: &str =
    "</script><img src=x onerror=alert(1)>\u{202e}=HYPERLINK(\"http://evil\",\"x\")\u{0}\u{ffff}&<!--";

/// A report in which every name and text is an attack.
fn hostile() -> Report {
    let mut sequences: Vec<_> =
        (0..3).map(|number| Sequence::new(HOSTILE, even(HOSTILE, 30 + number, 0.1)).with_prompt(vec![1, 2])).collect();
    sequences.push(Sequence::new("=1+1", even("@SUM(A1)", 30, 0.2)));
    for sequence in &mut sequences {
        sequence.worker = Some(HOSTILE.into());
        sequence.findings = vec![finding(Cause::StaleWeights, HOSTILE)];
    }
    let mut facts =
        Facts { title: HOSTILE.into(), command: Some(HOSTILE.into()), notes: vec![HOSTILE.into()], ..facts() };
    facts.reference.model = HOSTILE.into();
    facts.diagnosis = vec![finding(Cause::BosExtra, HOSTILE)];
    let free = json!({HOSTILE: HOSTILE, "nested": {HOSTILE: [HOSTILE]}});
    let own = EngineFacts {
        facts: free.as_object().cloned().unwrap(),
        not_scored: BTreeMap::from([(HOSTILE.into(), 1)]),
        ..EngineFacts::default()
    };
    facts.engines.insert(HOSTILE.into(), own);
    facts.inputs.push(InputFacts {
        name: HOSTILE.into(),
        rejected: BTreeMap::from([(HOSTILE.into(), 2)]),
        ..InputFacts::default()
    });
    let (statistics, clusters) = (SufficientStatistics::default(), ClusteredSums::default());
    let cross = CrossComparison {
        sampled_by: HOSTILE.into(),
        scored_by: "=2".into(),
        statistics,
        clusters,
        note: Some(HOSTILE.into()),
    };
    facts.cross.push(cross);
    collected(&sequences).finish(facts, Some(&Always(HOSTILE)))
}

#[test]
fn nothing_in_the_page_is_made_of_data_and_nothing_is_loaded() {
    let page = hostile().html().unwrap();
    assert_eq!(page.matches("<script").count(), 3, "the data, plotly, the page");
    assert_eq!(page.matches("</script").count(), 3);
    assert!(!page.contains("<img"), "markup in data");
    let own: String =
        page.split("<script").map(|part| part.split_once("</script>").map_or(part, |(_, rest)| rest)).collect();
    // The title has the text of an attack in it, escaped; what the page itself writes is quoted.
    let loads: usize = ["href=\"", "src=\"", "url(", "@import"].iter().map(|way| own.matches(way).count()).sum();
    assert_eq!(loads, 1, "{own}");
    assert!(own.contains("href=\"data:,\"") && own.contains("default-src 'none'"));
    let data = page.split_once("type=\"application/json\">").unwrap().1.split_once("</script>").unwrap().0;
    let data: serde_json::Value = serde_json::from_str(data).unwrap();
    assert_eq!(data["title"], HOSTILE);
    assert_eq!(data["engines"][1]["worst"]["tokens"]["text"][0], HOSTILE);
}

#[test]
fn the_pages_scripts_make_no_markup() {
    let modules = crate::assets::MODULES.map(|(_, source)| source);
    for script in modules.into_iter().chain([include_str!("../../assets/report.js")]) {
        for way in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "fetch(",
            "XMLHttpRequest",
            "http",
        ] {
            assert!(!script.contains(way), "{way}");
        }
    }
}

#[test]
fn no_cell_is_a_formula() {
    let bytes = hostile().xlsx().unwrap();
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(bytes)).unwrap();
    let (mut sheets, mut charts, mut references) = (0, 0, 0);
    for index in 0..archive.len() {
        let mut file = archive.by_index(index).unwrap();
        let name = file.name().unwrap().into_owned();
        let mut xml = String::new();
        if file.read_to_string(&mut xml).is_err() {
            continue;
        }
        if name.starts_with("xl/worksheets/sheet") {
            sheets += 1;
            assert!(!xml.contains("<f>") && !xml.contains("<f ") && !xml.contains("<hyperlink"), "{name}");
        }
        if name.starts_with("xl/charts/chart") {
            charts += 1;
            for reference in xml.split("<c:f>").skip(1).map(|part| part.split_once("</c:f>").unwrap().0) {
                let sheet = reference.split('!').next().unwrap().trim_matches('\'');
                let ours = ["Distributions", "longest", "typical", "worst"];
                assert!(ours.iter().any(|ours| sheet.starts_with(ours)), "{reference}");
                references += 1;
            }
        }
        let writable = |character: char| character >= ' ' || "\t\n\r".contains(character);
        assert!(xml.chars().all(writable) && !xml.contains('\u{ffff}'), "{name}");
        assert!(!xml.contains("TargetMode=\"External\""), "{name}");
    }
    assert_eq!((sheets, charts), (7 + 2 * 3, 4 + 2 * 3 * 2));
    assert!(references > 20);
}

#[test]
fn the_picture_has_the_size_that_it_says_and_something_on_it() {
    let bytes = hostile().png().unwrap();
    let mut reader = png::Decoder::new(std::io::Cursor::new(&bytes)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    assert_eq!(info.width, 1800);
    let part = |from: u32, to: u32| {
        let rows = &pixels[(from * 1800 * 3) as usize..(to * 1800 * 3) as usize];
        rows.iter().filter(|value| **value < 250).count() as f64 / rows.len() as f64
    };
    for from in (0..info.height - 200).step_by(200) {
        let inked = part(from, from + 200);
        assert!((0.003..0.8).contains(&inked), "rows from {from}: {inked}");
    }
}

#[test]
fn all_forms_are_written_whole() {
    let folder = std::env::temp_dir().join(format!("plumbline-report-{}", std::process::id()));
    let paths = hostile().write_to(&folder.join("new")).unwrap();
    let mut names: Vec<_> =
        std::fs::read_dir(folder.join("new")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["report.html", "report.json", "report.png", "report.xlsx"]);
    assert!(paths.iter().all(|path| path.metadata().unwrap().len() > 1000));
    std::fs::write(folder.join("file"), "").unwrap();
    let error = hostile().write_to(&folder.join("file")).unwrap_err().to_string();
    assert!(error.contains("file cannot be written"), "{error}");
    std::fs::remove_dir_all(folder).unwrap();
}
