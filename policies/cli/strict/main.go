// Strict reads pods from standard input as the API server does, with no field that it does not know,
// and holds them to PodSecurity's `restricted` where asked to.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"

	corev1 "k8s.io/api/core/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"
)

func main() {
	if err := run(len(os.Args) > 1 && os.Args[1] == "restricted"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(restricted bool) error {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return err
	}
	level := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	documents := utilyaml.NewYAMLReader(bufio.NewReader(os.Stdin))
	for count := 0; ; count++ {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			if count == 0 {
				return errors.New("no pod was given")
			}
			fmt.Printf("%d pods\n", count)
			return nil
		}
		if err != nil {
			return err
		}
		var pod corev1.Pod
		if err := yaml.UnmarshalStrict(document, &pod); err != nil {
			return fmt.Errorf("document %d: %w", count, err)
		}
		if pod.Kind != "Pod" || len(pod.Spec.Containers) == 0 {
			return fmt.Errorf("document %d is no pod", count)
		}
		if !restricted {
			continue
		}
		for _, result := range evaluator.EvaluatePod(level, &pod.ObjectMeta, &pod.Spec) {
			if !result.Allowed {
				return fmt.Errorf("%s: %s: %s", pod.Name, result.ForbiddenReason, result.ForbiddenDetail)
			}
		}
	}
}
