-- Runs for a CONNECT whose authority, as it was sent, has no scope: it is in
-- other letters than the policy's, below a wildcard, or not allowed.

-- Envoy looks for the route when it is asked for what the route says. The
-- filters that follow take it as it is.
local function find(request, key)
  request:headers():replace(scope, key)
  request:clearRouteCache()
  request:metadata()
  return request:streamInfo():routeName() ~= ""
end

function envoy_on_request(request)
  local authority, key = request:headers():get(":authority"), request:headers():get(scope)
  local connect = key:sub(1, #key - #authority)
  local lower = authority:lower()
  if lower == authority or not find(request, connect .. lower) then
    find(request, connect .. rest .. connect:match("^[^|]*"))
  end
end
