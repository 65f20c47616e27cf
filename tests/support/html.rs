//! Pages as a browser reads them: elements with their attributes and texts, and errors of the markup.

use html5ever::tendril::TendrilSink;
use markup5ever_rcdom::{Handle, NodeData, RcDom};

/// An element, without its namespace.
pub(crate) struct Element {
    pub(crate) name: String,
    pub(crate) attributes: Vec<(String, String)>,
    /// All text below it.
    pub(crate) text: String,
}

impl Element {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(attribute, _)| attribute == name).map(|(_, value)| value.as_str())
    }
}

/// The elements of a page in their order, and what a browser would complain about.
pub(crate) fn parse(page: &str) -> (Vec<Element>, Vec<String>) {
    let dom: RcDom = html5ever::parse_document(RcDom::default(), Default::default()).one(page);
    let mut elements = Vec::new();
    collect(&dom.document, &mut elements);
    let errors = dom.errors.borrow().iter().map(|error| error.to_string()).collect();
    (elements, errors)
}

fn collect(node: &Handle, elements: &mut Vec<Element>) -> String {
    let at = elements.len();
    let text = match &node.data {
        NodeData::Element { name, attrs, .. } => {
            let attributes =
                attrs.borrow().iter().map(|a| (a.name.local.to_string(), a.value.to_string())).collect();
            elements.push(Element { name: name.local.to_string(), attributes, text: String::new() });
            String::new()
        }
        NodeData::Text { contents } => contents.borrow().to_string(),
        _ => String::new(),
    };
    let text = node.children.borrow().iter().fold(text, |text, child| text + &collect(child, elements));
    if matches!(node.data, NodeData::Element { .. }) {
        elements[at].text.clone_from(&text);
    }
    text
}

/// Elements whose attribute `class` contains this class.
pub(crate) fn of_class<'a>(elements: &'a [Element], class: &str) -> Vec<&'a Element> {
    let has = |element: &&Element| {
        element.get("class").is_some_and(|classes| classes.split(' ').any(|one| one == class))
    };
    elements.iter().filter(has).collect()
}

/// The texts of all elements of a name.
pub(crate) fn texts<'a>(elements: &'a [Element], name: &str) -> Vec<&'a str> {
    elements.iter().filter(|e| e.name == name).map(|e| e.text.as_str()).collect()
}
