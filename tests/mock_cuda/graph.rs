//! Graphs: what a capture recorded, made executable, launched.
#![allow(non_snake_case)]

use cudarc::driver::sys::CUresult::{self, *};
use cudarc::driver::sys::{CUgraph, CUgraphExec, CUgraphNode, CUstream};

use crate::gpu::{Answer, Gpu, give, in_context};
use crate::stream::{Nodes, Operation};

/// An executable graph: independent of the graph that it was made of.
pub struct Executable(Nodes);

impl Gpu {
    fn graph(&mut self, name: &str, graph: CUgraph) -> Answer<usize> {
        let handle = graph as usize;
        if self.graphs.contains_key(&handle) {
            return Ok(handle);
        }
        Err(self.misuse(name, CUDA_ERROR_INVALID_HANDLE, "no graph that is alive"))
    }

    fn executable(&mut self, name: &str, executable: CUgraphExec) -> Answer<usize> {
        let handle = executable as usize;
        if self.executables.contains_key(&handle) {
            return Ok(handle);
        }
        Err(self.misuse(name, CUDA_ERROR_INVALID_HANDLE, "no executable graph that is alive"))
    }

    /// A graph does not keep alive what its nodes use.
    fn node_is_sound(&mut self, name: &str, node: &Operation) -> Answer {
        if let Operation::Launch { function, .. } = node
            && !self.functions.contains_key(function)
        {
            return Err(self.misuse(name, CUDA_ERROR_INVALID_HANDLE, "a node launches a kernel that was unloaded"));
        }
        if let Some(range) = node.host()
            && !self.is_page_locked(range)
        {
            return Err(self.misuse(name, CUDA_ERROR_INVALID_VALUE, "a node copies with host memory that was freed"));
        }
        Ok(())
    }
}

/// "If nodes is NULL, numNodes will return the number of nodes." That is all that is asked for here.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphGetNodes(graph: CUgraph, nodes: *mut CUgraphNode, count: *mut usize) -> CUresult {
    in_context("cuGraphGetNodes", |gpu| {
        let handle = gpu.graph("cuGraphGetNodes", graph)?;
        if !nodes.is_null() {
            return Err(gpu.misuse("cuGraphGetNodes", CUDA_ERROR_NOT_SUPPORTED, "the mock only counts"));
        }
        let found = gpu.graphs[&handle].len();
        give(gpu, "cuGraphGetNodes", count, found)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphInstantiateWithFlags(made: *mut CUgraphExec, graph: CUgraph, flags: u64) -> CUresult {
    in_context("cuGraphInstantiate", |gpu| {
        let handle = gpu.graph("cuGraphInstantiate", graph)?;
        if flags != 0 {
            return Err(gpu.misuse("cuGraphInstantiate", CUDA_ERROR_NOT_SUPPORTED, "flags, which the mock lacks"));
        }
        let nodes = gpu.graphs[&handle].clone();
        gpu.report.graph_nodes.push(nodes.len());
        let launches = nodes.iter().filter_map(|node| match node.as_ref() {
            Operation::Launch { function, args, .. } => Some((function, args)),
            _ => None,
        });
        let works = launches.collect::<std::collections::BTreeSet<_>>().len();
        gpu.report.graph_works.push(works);
        let handle = gpu.handle();
        gpu.executables.insert(handle, Executable(nodes));
        give(gpu, "cuGraphInstantiate", made, handle as CUgraphExec)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphDestroy(graph: CUgraph) -> CUresult {
    in_context("cuGraphDestroy", |gpu| {
        let handle = gpu.graph("cuGraphDestroy", graph)?;
        gpu.graphs.remove(&handle);
        Ok(())
    })
}

/// "Work submitted ... is unaffected": launches that wait hold their nodes.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphExecDestroy(executable: CUgraphExec) -> CUresult {
    in_context("cuGraphExecDestroy", |gpu| {
        let handle = gpu.executable("cuGraphExecDestroy", executable)?;
        gpu.executables.remove(&handle);
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphUpload(executable: CUgraphExec, stream: CUstream) -> CUresult {
    in_context("cuGraphUpload", |gpu| {
        gpu.executable("cuGraphUpload", executable)?;
        let stream = gpu.stream("cuGraphUpload", stream)?;
        gpu.not_captured("cuGraphUpload", stream)
    })
}

/// In a captured stream it would become a child graph, which the mock lacks.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphLaunch(executable: CUgraphExec, stream: CUstream) -> CUresult {
    in_context("cuGraphLaunch", |gpu| {
        let handle = gpu.executable("cuGraphLaunch", executable)?;
        let stream = gpu.stream("cuGraphLaunch", stream)?;
        gpu.not_captured("cuGraphLaunch", stream)?;
        gpu.report.replays += 1;
        for node in gpu.executables[&handle].0.clone() {
            gpu.node_is_sound("cuGraphLaunch", &node)?;
            gpu.queue(stream, node)?;
        }
        Ok(())
    })
}
