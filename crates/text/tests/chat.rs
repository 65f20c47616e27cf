//! Conversations rendered with the real templates, compared with transformers.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use text::{Chat, ChatTemplate};

fn fixtures() -> PathBuf {
    testkit::fixtures("")
}

fn json(path: &Path) -> Map<String, Value> {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn render(template: &ChatTemplate, chat: &Value) -> tensor::Result<String> {
    let list = |key| chat.get(key).map_or(&[][..], |value: &Value| value.as_array().unwrap());
    let known = ["messages", "tools", "add_generation_prompt", "enable_thinking"];
    let others = chat.as_object().unwrap().iter().filter(|(key, _)| !known.contains(&key.as_str()));
    template.render(&Chat {
        messages: list("messages"),
        tools: list("tools"),
        add_generation_prompt: chat["add_generation_prompt"] == true,
        enable_thinking: chat["enable_thinking"].as_bool(),
        bos_token: "<bos>",
        variables: others.map(|(key, value)| (key.clone(), value.clone())).collect(),
    })
}

#[test]
fn as_transformers_renders() {
    let folder = fixtures().join("chat-templates");
    let conversations = json(&folder.join("conversations.json"));
    let tiny = ("tiny", fixtures().join("checkpoints/e2b/chat_template.jinja"));
    let real = ["gemma-4-large.2026-07", "gemma-4-small.2026-07", "gemma-4-31B.2026-04"];
    for (name, path) in
        real.map(|name| (name, folder.join(format!("{name}.jinja")))).into_iter().chain([tiny])
    {
        let template = ChatTemplate::new(&fs::read_to_string(path).unwrap()).unwrap();
        let expected = json(&folder.join(format!("rendered/{name}.json")));
        assert_eq!(expected.len(), conversations.len());
        for (title, chat) in &conversations {
            let rendered = render(&template, chat);
            match &expected[title] {
                Value::String(text) => assert_eq!(&rendered.unwrap(), text, "{name}: {title}"),
                refusal => {
                    let error = rendered.expect_err(title);
                    assert!(error.place().starts_with("chat template: line "), "{name}: {title}: {error}");
                    let words = refusal["error"].as_str().unwrap();
                    let raised = words.starts_with("chat_template: ");
                    assert!(!raised || error.problem() == words, "{name}: {title}: {error}");
                }
            }
        }
    }
}
