//! Public lists that callers share.

use super::*;

#[tokio::test]
async fn public_lists_are_forgotten_once_they_are_old_or_lists_take_too_much() {
    let stage = Stage::new(configured([0, 1], NamePolicy::PrefixOnConflict, true));
    stage.script.say("a", Says::Public(&["x"]));
    stage.script.say("b", Says::Public(&["y"]));
    let remembered = || stage.catalogs.pantry.public.len();
    let roomy = loaded().snapshot;
    stage.merged(caller(1), Purpose::Show).await;
    stage.catalogs.sweep(stage.clock.now(), &roomy);
    assert_eq!(remembered(), 2, "they are fresh");
    stage.pass(10_000);
    stage.catalogs.sweep(stage.clock.now(), &roomy);
    assert_eq!(remembered(), 0, "they are old");

    stage.merged(caller(1), Purpose::Show).await;
    stage.settle().await;
    assert_eq!(remembered(), 2);
    stage.catalogs.pantry.sweep(stage.clock.now(), 1);
    assert_eq!(remembered(), 2, "an audience has them");
    stage.catalogs.lock().clear();
    stage.catalogs.pantry.sweep(stage.clock.now(), 1);
    assert_eq!(remembered(), 0, "nobody has them, and lists take too much");
}
