// Package main asks Argo Rollouts itself, without a cluster: are these Rollouts and AnalysisTemplates valid, are all
// arguments given, and what becomes of a measurement with such a result? The answers are upstream's code; only reading
// and writing live here. Built inside a copy of the module, for its `replace` block pins Kubernetes.
//
// In: {"objects": [...], "results": {"NAME": ["0.5", "NaN"]}}; out: {"faults": [...], "phases": {TEMPLATE: {METRIC:
// {NAME: PHASE}}}}. Numbers are strings, for JSON has neither NaN nor Inf.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strconv"

	"github.com/sirupsen/logrus"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/argoproj/argo-rollouts/pkg/apis/rollouts/v1alpha1"
	"github.com/argoproj/argo-rollouts/pkg/apis/rollouts/validation"
	"github.com/argoproj/argo-rollouts/utils/analysis"
	"github.com/argoproj/argo-rollouts/utils/evaluate"
)

type question struct {
	Objects []json.RawMessage   `json:"objects"`
	Results map[string][]string `json:"results"`
}

type answer struct {
	Faults []string                                `json:"faults"`
	Phases map[string]map[string]map[string]string `json:"phases"`
}

type objects struct {
	rollouts    []*v1alpha1.Rollout
	templates   map[string]*v1alpha1.AnalysisTemplate
	services    map[string]*corev1.Service
	deployments map[string]*appsv1.Deployment
}

func main() {
	var asked question
	if err := strictly(os.Stdin, &asked); err != nil {
		fail(err)
	}
	found, err := sorted(asked.Objects)
	if err != nil {
		fail(err)
	}
	told := answer{Faults: []string{}, Phases: map[string]map[string]map[string]string{}}
	for _, rollout := range found.rollouts {
		told.Faults = append(told.Faults, found.faultsOf(rollout)...)
	}
	for name, template := range found.templates {
		metrics, err := resolved(template)
		if err == nil {
			err = analysis.ValidateMetrics(metrics)
		}
		if err != nil {
			told.Faults = append(told.Faults, fmt.Sprintf("%s: %v", name, err))
			continue
		}
		if told.Phases[name], err = phases(metrics, asked.Results); err != nil {
			fail(err)
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(told); err != nil {
		fail(err)
	}
}

func sorted(raw []json.RawMessage) (*objects, error) {
	found := &objects{
		templates:   map[string]*v1alpha1.AnalysisTemplate{},
		services:    map[string]*corev1.Service{},
		deployments: map[string]*appsv1.Deployment{},
	}
	for _, each := range raw {
		var kind struct{ Kind string }
		if err := json.Unmarshal(each, &kind); err != nil {
			return nil, err
		}
		var err error
		switch kind.Kind {
		case "Rollout":
			rollout := &v1alpha1.Rollout{}
			err = strictly(bytes.NewReader(each), rollout)
			found.rollouts = append(found.rollouts, rollout)
		case "AnalysisTemplate":
			template := &v1alpha1.AnalysisTemplate{}
			err = strictly(bytes.NewReader(each), template)
			found.templates[template.Name] = template
		case "Service":
			service := &corev1.Service{}
			err = strictly(bytes.NewReader(each), service)
			found.services[service.Name] = service
		case "Deployment":
			deployment := &appsv1.Deployment{}
			err = strictly(bytes.NewReader(each), deployment)
			found.deployments[deployment.Name] = deployment
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", kind.Kind, err)
		}
	}
	return found, nil
}

// faultsOf validates a Rollout as it stands, then with the template it refers to and with what else it names: what the
// controller does before each reconciliation.
func (found *objects) faultsOf(rollout *v1alpha1.Rollout) []string {
	var faults []string
	for _, fault := range validation.ValidateRollout(rollout) {
		faults = append(faults, fault.Error())
	}
	if reference := rollout.Spec.WorkloadRef; reference != nil {
		deployment := found.deployments[reference.Name]
		if deployment == nil {
			return append(faults, "no Deployment "+reference.Name)
		}
		rollout = rollout.DeepCopy()
		rollout.Spec.SetResolvedTemplate(deployment.Spec.Template)
		for _, fault := range validation.ValidateRollout(rollout) {
			faults = append(faults, fault.Error())
		}
	}
	resources := validation.ReferencedResources{}
	canary := rollout.Spec.Strategy.Canary
	for kind, name := range map[validation.ServiceType]string{
		validation.StableService: canary.StableService,
		validation.CanaryService: canary.CanaryService,
	} {
		if service := found.services[name]; service != nil {
			with := validation.ServiceWithType{Service: service, Type: kind}
			resources.ServiceWithType = append(resources.ServiceWithType, with)
		} else if name != "" {
			faults = append(faults, "no Service "+name)
		}
	}
	use := func(run *v1alpha1.RolloutAnalysis, kind validation.AnalysisTemplateType, step int) {
		with := validation.AnalysisTemplatesWithType{TemplateType: kind, CanaryStepIndex: step, Args: run.Args}
		for _, reference := range run.Templates {
			if template := found.templates[reference.TemplateName]; template != nil {
				with.AnalysisTemplates = append(with.AnalysisTemplates, template.DeepCopy())
			} else {
				faults = append(faults, "no AnalysisTemplate "+reference.TemplateName)
			}
		}
		resources.AnalysisTemplatesWithType = append(resources.AnalysisTemplatesWithType, with)
	}
	for step, each := range canary.Steps {
		if each.Analysis != nil {
			use(each.Analysis, validation.InlineAnalysis, step)
		}
	}
	if canary.Analysis != nil {
		use(&canary.Analysis.RolloutAnalysis, validation.BackgroundAnalysis, 0)
	}
	for _, fault := range validation.ValidateRolloutReferencedResources(rollout, resources) {
		faults = append(faults, fault.Error())
	}
	return faults
}

// resolved puts the arguments in, as a run would have them.
func resolved(template *v1alpha1.AnalysisTemplate) ([]v1alpha1.Metric, error) {
	arguments := template.DeepCopy().Spec.Args
	given := "6d4b75cb6d"
	for i := range arguments {
		if arguments[i].Value == nil {
			arguments[i].Value = &given
		}
	}
	var metrics []v1alpha1.Metric
	for _, each := range template.Spec.Metrics {
		metric, err := analysis.ResolveMetricArgs(each, arguments)
		if err != nil {
			return nil, err
		}
		metrics = append(metrics, *metric)
	}
	return metrics, nil
}

func phases(metrics []v1alpha1.Metric, results map[string][]string) (map[string]map[string]string, error) {
	told := map[string]map[string]string{}
	for _, metric := range metrics {
		told[metric.Name] = map[string]string{}
		for name, result := range results {
			values := []float64{}
			for _, text := range result {
				value, err := strconv.ParseFloat(text, 64)
				if err != nil {
					return nil, err
				}
				values = append(values, value)
			}
			phase, err := evaluate.EvaluateResult(values, metric, *logrus.NewEntry(logrus.New()))
			if err != nil {
				phase = v1alpha1.AnalysisPhaseError
			}
			told[metric.Name][name] = string(phase)
		}
	}
	return told, nil
}

func strictly(from interface{ Read([]byte) (int, error) }, into any) error {
	decoder := json.NewDecoder(from)
	decoder.DisallowUnknownFields()
	return decoder.Decode(into)
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "checks:", err)
	os.Exit(1)
}
