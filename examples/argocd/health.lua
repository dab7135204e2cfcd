-- Health of a FineTuneJob for Argo CD, from its kstatus conditions, for the generation that is in Git. Install it in the
-- ConfigMap argocd-cm as resource.customizations.health.slmops.dev_FineTuneJob.
local health = { status = "Progressing", message = "waiting for the operator" }
if obj.status == nil or obj.status.conditions == nil then
  return health
end
if obj.status.observedGeneration ~= nil and obj.metadata.generation ~= nil
    and obj.status.observedGeneration < obj.metadata.generation then
  health.message = "waiting for the operator to see generation " .. tostring(obj.metadata.generation)
  return health
end

local conditions = {}
for _, condition in ipairs(obj.status.conditions) do
  conditions[condition.type] = condition
end
local function is(kind, value)
  return conditions[kind] ~= nil and conditions[kind].status == value
end

health.message = obj.status.message or ""
if is("Succeeded", "True") then
  health.status = "Healthy"
elseif is("Succeeded", "False") or is("Stalled", "True") then
  health.status = "Degraded"
elseif is("Suspended", "True") then
  health.status = "Suspended"
end
return health
