# Resource policy for Trustee's KBS: a workload's resources go to guests that were launched with a
# listed initdata, and that the verifier affirms. Everything else is denied.
#
# The guests are listed below, by hand or by a pipeline: `kubectl countersign initdata digest` prints
# the digest. While a rollout runs, list the old one and the new one; take the old one out after.
#
# Upload: POST /kbs/v0/resource-policy with {"policy": "<base64url of this file, no padding>"}.
package policy

import rego.v1

# namespace.workload → what may be read by whom.
workloads := {
	"payments.api": {
		# The whole digest of the initdata, hex, under its own algorithm.
		"init_data": [
			"0000000000000000000000000000000000000000000000000000000000000000",
		],
		# First segments of resources: kbs:///payments/…
		"repositories": ["payments"],
	},
}

default allow := false

allow if {
	data.plugin == "resource"
	count(path) == 3
	affirmed
	some name, workload in workloads
	may_read(name, workload)
	some digest in workload.init_data
	launched_with(digest)
}

path := data["resource-path"]

evidence := input.submods.cpu0["ear.veraison.annotated-evidence"]

# Every part of the guest, and none of it a stand-in that proves nothing.
affirmed if {
	input.eat_profile == "tag:github.com,2024:confidential-containers/Trustee"
	every submod in input.submods {
		submod["ear.status"] == "affirming"
		not submod["ear.veraison.annotated-evidence"].sample
		not submod["ear.veraison.annotated-evidence"].sampledevice
	}
	input.submods.cpu0
}

may_read(_, workload) if path[0] in workload.repositories

# Its own countersign.toml, where the KBS delivers it.
may_read(name, _) if path == ["default", "countersign", name]

# What the gate of `kubectl countersign initdata new` asks for: the word `success`, no secret of anybody.
may_read(_, _) if path == ["default", "attestation-status", "status"]

# What the hardware holds is the digest: whole, cut to the field (SEV-SNP: 32 bytes), or filled with
# zeros (sha256 on TDX). An unset field is all zeros, and is nobody's initdata.
launched_with(digest) if {
	set_at_launch
	evidence.init_data == digest
}

launched_with(digest) if {
	set_at_launch
	count(evidence.init_data) == 64
	evidence.init_data == substring(digest, 0, 64)
}

launched_with(digest) if {
	set_at_launch
	count(digest) == 64
	count(evidence.init_data) == 96
	evidence.init_data == concat("", [digest, "00000000000000000000000000000000"])
}

set_at_launch if regex.match(`[1-9a-f]`, evidence.init_data)
