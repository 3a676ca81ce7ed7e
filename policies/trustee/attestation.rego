# Attestation policy for Trustee: what a CPU's evidence is worth, in the terms of AR4SI. Compared with
# the one that Trustee ships, a guest that the host may debug or migrate is contraindicated, not
# merely of a doubtful configuration; so is a TEE of another kind.
#
# Reference values (hex), registered with POST /kbs/v0/reference-value:
#   snp_launch_measurement                     of the guest image, kernel and command line
#   snp_bootloader snp_tee_svn snp_snp_svn snp_microcode    the TCB numbers that you accept
#   tdx_mr_td tdx_mr_seam tdx_xfam             TDX firmware, module and features
#   tdx_rtmr_1 tdx_rtmr_2                      kernel, command line and initrd
#
# Upload: POST /kbs/v0/attestation-policy with
#   {"type": "rego", "policy_id": "default_cpu", "policy": "<base64url of this file, no padding>"}
package policy

import rego.v1

default executables := 33

default hardware := 97

default configuration := 97

trust_claims := {
	"executables": executables,
	"hardware": hardware,
	"configuration": configuration,
	"file-system": 0,
	"instance-identity": 0,
	"runtime-opaque": 0,
	"storage-opaque": 0,
	"sourced-data": 0,
}

# -- SEV-SNP

executables := 3 if {
	input.snp
	input.snp.measurement in query_reference_value("snp_launch_measurement")
}

hardware := 2 if {
	input.snp
	input.snp.reported_tcb_bootloader in query_reference_value("snp_bootloader")
	input.snp.reported_tcb_tee in query_reference_value("snp_tee_svn")
	input.snp.reported_tcb_snp in query_reference_value("snp_snp_svn")
	input.snp.reported_tcb_microcode in query_reference_value("snp_microcode")
}

configuration := 2 if {
	input.snp
	input.snp.policy_debug_allowed == false
	input.snp.policy_migrate_ma == false
}

# -- TDX

executables := 3 if {
	input.tdx
	input.tdx.quote.body.rtmr_1 in query_reference_value("tdx_rtmr_1")
	input.tdx.quote.body.rtmr_2 in query_reference_value("tdx_rtmr_2")
}

hardware := 2 if {
	input.tdx
	input.tdx.quote.body.mr_td in query_reference_value("tdx_mr_td")
	input.tdx.quote.body.mr_seam in query_reference_value("tdx_mr_seam")
	input.tdx.tcb_status == "UpToDate"
	input.tdx.collateral_expiration_status == "0"
}

configuration := 2 if {
	input.tdx
	input.tdx.td_attributes.debug == false
	input.tdx.quote.body.xfam in query_reference_value("tdx_xfam")
}
