# A small policy of our own in the shape of a generated one: rules first, policy_data last.
package agent_policy

import future.keywords.every
import future.keywords.if
import future.keywords.in

default AddSwapRequest := false
default AllowRequestsFailingPolicy := false
default CreateContainerRequest := false
default ExecProcessRequest := false
default GetDiagnosticDataRequest := true
default ReadStreamRequest := false
default SetPolicyRequest := false
default UpdateEphemeralMountsRequest := false

CreateContainerRequest := {"allowed": true, "ops": [{"op": "add", "path": path, "value": index}]} if {
    some index, wanted in policy_data.containers
    image_is(wanted)
    command_is(wanted)
    variables_are(wanted)
    mounts_are(wanted)
    user_is(wanted)
    path := concat("", ["/pstate/", input.container_id])
}

image_is(wanted) if {
    every storage in input.storages {
        storage.source == wanted.OCI.Annotations["io.kubernetes.cri.image-name"]
    }
}

command_is(wanted) if {
    wanted.OCI.Process.Args == input.OCI.Process.Args
}

variables_are(wanted) if {
    every variable in input.OCI.Process.Env {
        variable in wanted.OCI.Process.Env
    }
}

mounts_are(wanted) if {
    count(wanted.OCI.Mounts) == count(input.OCI.Mounts)
    every index, mount in input.OCI.Mounts {
        mount.destination == wanted.OCI.Mounts[index].destination
        regex.match(replace(wanted.OCI.Mounts[index].source, "$(cpath)", policy_data.common.cpath), mount.source)
    }
}

user_is(wanted) if {
    wanted.OCI.Process.User == input.OCI.Process.User
}

user_is(wanted) if {
    not wanted.OCI.Process.User
}

# As probes of an exec kind need it: the command of the container that was created under this id.
ExecProcessRequest if {
    some command in policy_data.containers[data.pstate[input.container_id]].exec_commands
    command == input.process.Args
}

policy_data := {
  "containers": [
    {
      "OCI": {
        "Annotations": {
          "io.kubernetes.cri.container-name": "countersign",
          "io.kubernetes.cri.image-name": "registry.example/payments/countersign@sha256:1111111111111111111111111111111111111111111111111111111111111111",
          "io.kubernetes.cri.sandbox-name": "^api-[a-z0-9]{5}$"
        },
        "Process": { "Args": ["/countersign"], "Env": ["COUNTERSIGN_ROLE=init", "COUNTERSIGN_WORKLOAD=api"] },
        "Root": { "Path": "/run/kata-containers/$(bundle-id)/rootfs", "Readonly": true },
        "Mounts": [{ "destination": "/run/countersign", "source": "^$(cpath)/[a-z]{16}-\\d-secrets$" }]
      },
      "storages": [],
      "exec_commands": []
    },
    {
      "OCI": {
        "Annotations": {
          "io.kubernetes.cri.container-name": "api",
          "io.kubernetes.cri.image-name": "registry.example/payments/api@sha256:2222222222222222222222222222222222222222222222222222222222222222",
          "io.kubernetes.cri.sandbox-name": "^api-[a-z0-9]{5}$"
        },
        "Process": {
          "Args": ["/api", "--serve"],
          "Env": ["HOST=127.0.0.1"],
          "User": { "UID": 1000, "GID": 1000 },
          "Capabilities": { "Bounding": ["CAP_CHOWN"] }
        },
        "Root": { "Path": "/run/kata-containers/$(bundle-id)/rootfs", "Readonly": true },
        "Mounts": [
          { "destination": "/data", "source": "^$(cpath)/[a-z]{16}-\\d-data$", "options": ["rbind", "rprivate", "rw"] }
        ]
      },
      "storages": [],
      "exec_commands": []
    }
  ],
  "common": { "cpath": "/run/kata-containers/shared/containers" }
}
