//! The table as a mutating policy of Kyverno, one for each tier.

use std::fmt::Write as _;

use super::table::{Change, Mutation, ROLE, mutations, variables};
use super::tier::{Shape, Tier};
use super::{OPT_OUT, TIER_LABEL, cel};

/// Where expressions begin in the YAML, columns.
const COLUMN: usize = 8;

/// The policy, as YAML.
pub(super) fn policy(tier: &Tier) -> String {
    let mut yaml = String::new();
    // Writing to memory does not fail.
    let _ = write_policy(&mut yaml, tier);
    yaml
}

fn write_policy(yaml: &mut String, tier: &Tier) -> std::fmt::Result {
    let name = &tier.name;
    let class = &tier.runtime_class;
    let shape = match tier.shape {
        Shape::Rest => "through the guest's REST service",
        Shape::Direct => "through the kernel's configfs, as uid 0 without capabilities",
    };
    let sidecar = if tier.sidecar { " and its sidecar" } else { "" };
    write!(
        yaml,
        "\
# Written by `kubectl countersign policies emit --tier {name}`, from one table with `kubectl
# countersign render`. Change the tier's file, not this one.
apiVersion: policies.kyverno.io/v1
kind: MutatingPolicy
metadata:
  name: countersign-inject-{name}
  annotations:
    policies.kyverno.io/title: Inject countersign ({name})
    policies.kyverno.io/category: Confidential Computing
    policies.kyverno.io/severity: medium
    policies.kyverno.io/subject: Pod
    policies.kyverno.io/minversion: 1.18.0
    kyverno.io/kyverno-version: 1.18.2, 1.19.1
    kyverno.io/kubernetes-version: \"1.30-1.36\"
    policies.kyverno.io/description: >-
      Pods of namespaces labelled {TIER_LABEL}={name} become confidential: runtime class {class},
      the workload's initdata, a memory volume for secrets, and countersign's init container{sidecar},
      which attests {shape}. A pod with the annotation {ROLE}=issuer becomes
      the mesh's issuer instead. It is convenience and no boundary: what it writes is checked in the guest.
spec:
  # A pod that is not injected gets no secrets; better that it is not created.
  failurePolicy: Fail
  reinvocationPolicy: IfNeeded
  matchConstraints:
    namespaceSelector:
      matchLabels:
        {TIER_LABEL}: {name}
    # Not only an opt-out: with an object selector Kyverno leaves controllers alone.
    objectSelector:
      matchExpressions:
        - {{ key: {OPT_OUT}, operator: DoesNotExist }}
    resourceRules:
      - apiGroups: [\"\"]
        apiVersions: [v1]
        operations: [CREATE]
        resources: [pods]
  matchConditions:
    # Said again: Kyverno holds a selector to the old object too, and a pod that is being created has
    # an old object without labels.
    - name: not-opted-out
      expression: >-
        !has(object.metadata.labels) || !(\"{OPT_OUT}\" in object.metadata.labels)
  # Evaluated once: none reads what a mutation writes.
  variables:
"
    )?;
    for variable in variables() {
        writeln!(yaml, "    - name: {}\n      expression: >-", variable.name)?;
        block(yaml, &cel::plain(&variable.is, 0))?;
    }
    writeln!(yaml, "  mutations:")?;
    for mutation in mutations(tier) {
        write_mutation(yaml, &mutation)?;
    }
    Ok(())
}

/// `patchType` and the field that it names are written together: Kyverno skips a mutation silently
/// where they disagree.
fn write_mutation(yaml: &mut String, mutation: &Mutation) -> std::fmt::Result {
    writeln!(yaml, "    # {}", mutation.why)?;
    let (patch, field, made, nothing) = match &mutation.change {
        Change::Merge(fields) => ("ApplyConfiguration", "applyConfiguration", cel::typed(fields, 0), "Object{}"),
        Change::Spec(name, list) => {
            let list = cel::plain(list, 4);
            let patch = format!("[JSONPatch{{op: \"add\", path: \"/spec/{name}\", value:\n    {list}\n}}]");
            ("JSONPatch", "jsonPatch", patch, "[]")
        }
    };
    let text = match &mutation.when {
        None => made,
        Some(when) => format!("{}\n? {made}\n: {nothing}", cel::plain(when, 0)),
    };
    writeln!(yaml, "    - patchType: {patch}\n      {field}:\n        expression: |-")?;
    for line in text.lines() {
        writeln!(yaml, "{:width$}{line}", "", width = COLUMN.saturating_add(2))?;
    }
    Ok(())
}

fn block(yaml: &mut String, text: &str) -> std::fmt::Result {
    for line in text.lines() {
        writeln!(yaml, "{:COLUMN$}{line}", "")?;
    }
    Ok(())
}
