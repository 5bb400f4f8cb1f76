{{- define "sluice.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag }}{{ with .Values.image.digest }}@{{ . }}{{ end }}
{{- end }}

{{/* Labels of an object that belongs to `sluice` or `sluice-operator`. Helm adds `app.kubernetes.io/managed-by`. */}}
{{- define "sluice.labels" -}}
app.kubernetes.io/name: {{ . }}
app.kubernetes.io/component: {{ eq . "sluice" | ternary "agent" "operator" }}
app.kubernetes.io/part-of: sluice
{{- end }}

{{/* How a client in this pod finds the API server, as far as it is not by the Service's address. */}}
{{- define "sluice.apiServerEnv" -}}
{{- with .Values.k8sServiceHost }}
- name: KUBERNETES_SERVICE_HOST
  value: {{ . | quote }}
{{- end }}
{{- with .Values.k8sServicePort | toString }}
- name: KUBERNETES_SERVICE_PORT
  value: {{ . | quote }}
{{- end }}
{{- end }}

{{/* The loopback address that serves what is bound to `address`. */}}
{{- define "sluice.loopback" -}}
{{- if and .enabled (eq .address "[::]") }}{{ "::1" }}{{ else }}127.0.0.1{{ end }}
{{- end }}

{{- define "sluice.metricsAddress" -}}
{{ .enabled | ternary .address "127.0.0.1" }}:{{ .port }}
{{- end }}

{{/*
Memory of the agent (ARCHITECTURE.md, Memory), MiB. All of it but the UMEM does not depend on values: conntrack 53, translations
29, events and counters 5, which with program and policies of a usual size make 192; L7 flows at most 323, and as much again and
more for policies by the ten thousand, of which two generations exist while one is exchanged for the other.
*/}}
{{- define "sluice.umemMebibytes" -}}
{{ div (add (mul (int64 .Values.umem.frames) 4096) 1048575) 1048576 }}
{{- end }}

{{- define "sluice.agentResources" -}}
{{- $umem := include "sluice.umemMebibytes" . | int64 }}
{{- $huge := "" }}
{{- if .Values.umem.hugePages }}
{{- $huge = printf ", hugepages-2Mi: %dMi" (mul 2 (div (add $umem 1) 2)) }}
{{- $umem = 0 }}
{{- end }}
{{- $request := printf "%dMi" (add $umem 192) }}
{{- $limit := printf "%dMi" (add $umem 960) }}
{{- $cpus := int64 .Values.worker.dedicatedCPUs }}
{{- if and .Values.resources $cpus }}
{{- fail "resources and worker.dedicatedCPUs: set one of them" }}
{{- else if and .Values.worker.napi (eq $cpus 1) }}
{{- fail "worker.napi: the worker has a CPU to itself and worker.dedicatedCPUs is 1: 2 are needed, or 0" }}
{{- else if .Values.resources }}
{{- toYaml .Values.resources }}
{{- else if $cpus -}}
requests: {cpu: {{ $cpus }}, memory: {{ $limit }}{{ $huge }}}
limits: {cpu: {{ $cpus }}, memory: {{ $limit }}{{ $huge }}}
{{- else -}}
requests: {cpu: 200m, memory: {{ $request }}{{ $huge }}}
limits: {memory: {{ $limit }}{{ $huge }}}
{{- end }}
{{- end }}

{{/* What Prometheus' operator needs to find one component: dict root, name, prometheus. */}}
{{- define "sluice.monitoring" -}}
{{- $monitor := .prometheus.serviceMonitor }}
{{- if .prometheus.enabled }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ .name }}-metrics
  namespace: {{ .root.Release.Namespace }}
  labels: {{- include "sluice.labels" .name | nindent 4 }}
spec:
  clusterIP: None
  selector:
    app.kubernetes.io/name: {{ .name }}
  ports:
  - {name: metrics, port: {{ .prometheus.port }}, targetPort: {{ .prometheus.port }}, protocol: TCP}
{{- if $monitor.enabled }}
---
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- merge (dict) $monitor.labels (include "sluice.labels" .name | fromYaml) | toYaml | nindent 4 }}
  {{- with $monitor.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  selector:
    matchLabels:
      app.kubernetes.io/name: {{ .name }}
  namespaceSelector:
    matchNames: [{{ .root.Release.Namespace }}]
  endpoints:
  - port: metrics
    path: /metrics
    interval: {{ $monitor.interval }}
    {{- with $monitor.relabelings }}
    relabelings: {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- with $monitor.metricRelabelings }}
    metricRelabelings: {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}
{{- else if $monitor.enabled }}
{{- fail (printf "%s.serviceMonitor.enabled: nothing to monitor unless %s.enabled is true" .field .field) }}
{{- end }}
{{- end }}
