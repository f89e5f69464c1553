{{/*
For your own chart, which has this one as a dependency with `mode: sidecar`. All of them take the subchart's context:
  {{ include "holdfast.sidecar.container" .Subcharts.holdfast | nindent 8 }}
*/}}

{{/* An item of `containers`; nothing for a native sidecar. */}}
{{- define "holdfast.sidecar.container" -}}
{{- if not .Values.sidecar.native -}}
- {{ include "holdfast.container" . | nindent 2 | trim }}
{{- end -}}
{{- end -}}

{{/* An item of `initContainers`; nothing unless it is a native sidecar. */}}
{{- define "holdfast.sidecar.initContainer" -}}
{{- if .Values.sidecar.native -}}
- {{ include "holdfast.container" . | nindent 2 | trim }}
  restartPolicy: Always
{{- end -}}
{{- end -}}

{{/* Items of `volumes`. */}}
{{- define "holdfast.sidecar.volumes" -}}
{{- include "holdfast.volumes" . -}}
{{- end -}}

{{/* The value of `terminationGracePeriodSeconds`. */}}
{{- define "holdfast.sidecar.terminationGracePeriodSeconds" -}}
{{- include "holdfast.terminationGracePeriodSeconds" . -}}
{{- end -}}

{{/* The value of `lifecycle` of the app's container: it goes on while Holdfast drains. */}}
{{- define "holdfast.sidecar.appLifecycle" -}}
{{- $seconds := (include "holdfast.facts" . | fromYaml).appSleepSeconds -}}
{{- if and $seconds (semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version) -}}
preStop:
  sleep: {seconds: {{ $seconds }}}
{{- else -}}
{}
{{- end -}}
{{- end -}}
