//! The API server itself refuses what our rules forbid, with a message that says what to write.

#[tokio::test]
async fn every_bad_manifest_is_refused_with_its_mend() {
    let client = powercap_e2e::client().await;
    let files = crate::refused::each_is_refused_with_its_mend(&client, "tests/bad").await;
    assert!(files > 20, "the table of bad manifests is in tests/bad");
}
