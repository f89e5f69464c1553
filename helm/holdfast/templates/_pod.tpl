{{/* What both modes put into a pod. */}}

{{- define "holdfast.container" -}}
{{- $facts := include "holdfast.facts" . | fromYaml -}}
name: holdfast
image: {{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args: [run, --config, /etc/holdfast/holdfast.yaml]
{{- with .Values.env }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.envFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
ports:
  - {name: websocket, containerPort: {{ $facts.websocketPort }}, protocol: TCP}
  {{- if $facts.isAdminOpen }}
  - {name: holdfast-admin, containerPort: {{ $facts.adminPort }}, protocol: TCP}
  {{- end }}
{{- if .Values.probes.enabled }}
{{- include "holdfast.probes" (dict "probes" .Values.probes "facts" $facts) }}
{{- end }}
{{- if and (eq .Values.mode "sidecar") .Values.sidecar.native $facts.drain }}
lifecycle:
  # At once, while the app still takes events: SIGTERM comes when it is gone.
  preStop:
    exec: {command: {{ concat (list "holdfast" "drain") $facts.drain | toJson }}}
{{- else if and .Values.preStopSleepSeconds (semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version) }}
lifecycle:
  preStop:
    sleep: {seconds: {{ .Values.preStopSleepSeconds }}}
{{- end }}
{{- with .Values.resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.securityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
volumeMounts:
  # Folders, never a subPath: that would never change.
  - {name: holdfast-config, mountPath: /etc/holdfast, readOnly: true}
  {{- range $name, $_ := include "holdfast.secretFiles" . | fromYaml }}
  - {name: holdfast-secret-{{ $name }}, mountPath: /run/secrets/holdfast/{{ $name }}, readOnly: true}
  {{- end }}
{{- end -}}

{{/* Probes bear no token, and need none. The kubelet cannot call loopback, nor show a certificate. */}}
{{- define "holdfast.probes" -}}
{{- $scheme := ternary "HTTPS" "HTTP" .facts.isAdminTls }}
{{- if eq .facts.probe "http" }}
livenessProbe:
  httpGet: {path: /healthz, port: holdfast-admin, scheme: {{ $scheme }}}
  {{- toYaml .probes.liveness | nindent 2 }}
{{- else if eq .facts.probe "exec" }}
livenessProbe:
  exec: {command: [holdfast, probe, --live, --admin, {{ .facts.adminUrl | quote }}]}
  {{- toYaml .probes.liveness | nindent 2 }}
{{- end }}
readinessProbe:
  {{- if eq .facts.probe "http" }}
  httpGet: {path: /readyz, port: holdfast-admin, scheme: {{ $scheme }}}
  {{- else if eq .facts.probe "exec" }}
  exec: {command: [holdfast, probe, --admin, {{ .facts.adminUrl | quote }}]}
  {{- else }}
  tcpSocket: {port: websocket}
  {{- end }}
  {{- toYaml .probes.readiness | nindent 2 }}
{{- end -}}

{{/* Secrets that are mounted, by the name of their folder. */}}
{{- define "holdfast.secretFiles" -}}
{{- $files := deepCopy .Values.secretFiles -}}
{{- with .Values.adminTokens.existingSecret -}}
{{- $_ := set $files "admin" . -}}
{{- end -}}
{{- toYaml $files -}}
{{- end -}}

{{/* One projected volume, so that the configuration and its schemas change in one swap. */}}
{{- define "holdfast.volumes" -}}
- name: holdfast-config
  projected:
    sources:
      - configMap: {name: {{ include "holdfast.fullname" . }}}
      {{- range .Values.extraConfigMaps }}
      - configMap: {name: {{ . }}}
      {{- end }}
{{- range $name, $secret := include "holdfast.secretFiles" . | fromYaml }}
- name: holdfast-secret-{{ $name }}
  secret: {secretName: {{ $secret }}}
{{- end }}
{{- end -}}

{{/* What the pod needs at least, so that the drain ends before it is cut off. */}}
{{- define "holdfast.terminationGracePeriodSeconds" -}}
{{- (include "holdfast.facts" . | fromYaml).graceSeconds -}}
{{- end -}}

{{- define "holdfast.configmap" -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ include "holdfast.fullname" . }}
  labels:
    {{- include "holdfast.labels" . | nindent 4 }}
data:
  holdfast.yaml: |
    {{- include "holdfast.config" . | nindent 4 }}
  {{- range $name, $schema := .Values.schemas }}
  {{ $name }}: |
    {{- kindIs "string" $schema | ternary $schema (toPrettyJson $schema) | nindent 4 }}
  {{- end }}
{{- end -}}
