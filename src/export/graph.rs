//! A graph under construction: nodes with names, and constants, each of which is in the file once.

use std::collections::BTreeSet;

use super::onnx::{Attribute, Element, Graph, Node, Tensor, ValueInfo};

/// Nodes and constants so far.
#[derive(Default)]
pub struct Builder {
    nodes: Vec<Node>,
    constants: Vec<Tensor>,
    names: BTreeSet<String>,
}

impl Builder {
    /// `name`, or where that is taken, `name_2`, `name_3`, ...
    fn free(&mut self, name: &str) -> String {
        let numbered = (2..).map(|number| format!("{name}_{number}"));
        let mut candidates = std::iter::once(name.to_owned()).chain(numbered);
        let free = candidates.find(|candidate| self.names.insert(candidate.clone()));
        free.expect("there are more numbers than names")
    }

    /// Appends a node of this name; returns the name of what it writes, which is the node's.
    pub fn node(&mut self, name: &str, op: &str, inputs: &[&str], attributes: Vec<Attribute>) -> String {
        let name = self.free(name);
        self.nodes.push(Node {
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: vec![name.clone()],
            name: Some(name.clone()),
            op_type: Some(op.into()),
            attribute: attributes,
        });
        name
    }

    /// A constant of these extents, rounded to single precision; returns its name.
    pub fn floats(&mut self, name: &str, extents: &[usize], values: &[f64]) -> String {
        debug_assert_eq!(extents.iter().product::<usize>(), values.len(), "{name}");
        let bytes = values.iter().flat_map(|&value| (value as f32).to_le_bytes()).collect();
        self.constant(name, Element::F32, extents, bytes)
    }

    /// A constant list of whole numbers; returns its name.
    pub fn whole(&mut self, name: &str, values: &[i64]) -> String {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(name, Element::I64, &[values.len()], bytes)
    }

    fn constant(&mut self, name: &str, element: Element, extents: &[usize], bytes: Vec<u8>) -> String {
        let mut tensor = Tensor {
            dims: extents.iter().map(|&n| n as i64).collect(),
            data_type: Some(element as i32),
            name: Some(name.into()),
            raw_data: Some(bytes),
        };
        // The same constant under the same name, as all shortcuts of a kind have, is one.
        if let Some(known) = self.constants.iter().find(|known| **known == tensor) {
            return known.name.clone().unwrap_or_default();
        }
        let name = self.free(name);
        tensor.name = Some(name.clone());
        self.constants.push(tensor);
        name
    }

    /// Gives a value another name, wherever it is written and read.
    pub fn rename(&mut self, from: &str, to: &str) {
        for node in &mut self.nodes {
            for name in node.input.iter_mut().chain(&mut node.output) {
                if name == from {
                    to.clone_into(name);
                }
            }
        }
    }

    /// The whole graph.
    pub fn graph(self, name: String, doc: String, input: Vec<ValueInfo>, output: Vec<ValueInfo>) -> Graph {
        let (node, initializer) = (self.nodes, self.constants);
        Graph { node, name: Some(name), initializer, doc_string: Some(doc), input, output }
    }
}
