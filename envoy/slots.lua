-- What header mutations cannot do: take an agent's own keys out of the query and
-- out of lists, put a credential into the query, and keep a credential that an
-- upstream echoes from the agent. It is appended to the tables headers,
-- parameters, protocols and secret, which are made from slots.go.
--
-- Nothing but what is named is changed: Envoy's own query mutations write every
-- parameter decoded, so that x=%26key%3D1 becomes x=&key=1 (docs/envoy.md).

local function decode(name)
  local s = name:gsub("+", " "):gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end)
  return s:lower()
end

local function encode(value)
  local s = value:gsub("[^%w%-%._~]", function(c) return string.format("%%%02X", c:byte()) end)
  return s
end

-- Some servers take a semicolon for an ampersand.
local function stripped(query, parameter)
  local found = false
  local left = query:gsub("[^&;]+", function(piece)
    local name = decode(piece:match("^[^=]*"))
    if parameters[name] or name == parameter then
      found = true
      return ""
    end
  end)
  if found then
    left = left:gsub("&&+", "&"):gsub("^&", ""):gsub("&$", "")
  end
  return left
end

local function scrub_path(handle, context)
  local all = handle:headers()
  local path, parameter, value = all:get(":path"), context:get("parameter"), all:get(secret)
  if value then
    all:remove(secret)
  end
  if not path or not (parameter or path:find("?", 1, true)) then
    return
  end
  local before, query = path:match("^([^?]*)%??(.*)$")
  local after = stripped(query, parameter and parameter:lower())
  if parameter then
    after = (after == "" and "" or after .. "&") .. encode(parameter) .. "=" .. encode(value)
  end
  if after ~= query then
    all:replace(":path", after == "" and before or before .. "?" .. after)
  end
end

-- Browsers cannot set headers on a WebSocket, so some services take a key here.
local function scrub_protocols(handle)
  local all = handle:headers()
  local list = all:get("sec-websocket-protocol")
  if not list then
    return
  end
  local kept, found = {}, false
  for item in list:gmatch("[^,%s]+") do
    local slot = false
    for _, prefix in ipairs(protocols) do
      slot = slot or item:lower():sub(1, #prefix) == prefix
    end
    found = found or slot
    if not slot then
      kept[#kept + 1] = item
    end
  end
  if found then
    all:remove("sec-websocket-protocol")
    if #kept > 0 then
      all:add("sec-websocket-protocol", table.concat(kept, ", "))
    end
  end
end

-- What was injected is kept with the request until its response has come.
local function remember(handle, context)
  local value
  if context:get("parameter") then
    value = handle:headers():get(secret)
  elseif context:get("header") then
    value = handle:headers():get(context:get("header"))
    value = value and (value:match("^%a+%s+(.+)$") or value)
  end
  if value then
    handle:streamInfo():dynamicMetadata():set("postern.injected", "value", value)
  end
end

local function request(handle)
  local context = handle:filterContext()
  remember(handle, context)
  scrub_path(handle, context)
  scrub_protocols(handle)
  -- Such a body is a sequence of parts that the agent has signed itself.
  local digest = context:get("signs") and handle:headers():get("x-amz-content-sha256")
  return digest and digest:sub(1, 10):upper() == "STREAMING-"
end

function envoy_on_request(handle)
  local ok, refuse = pcall(request, handle)
  if not ok then
    -- Not as it came: it may hold what was to be taken out.
    handle:respond({[":status"] = "500"}, "")
  elseif refuse then
    handle:respond({[":status"] = "422"}, "")
  end
end

local function contains(value, injected)
  return #injected < 8 and value == injected or #injected >= 8 and value:find(injected, 1, true)
end

local function response(handle)
  local context = handle:filterContext()
  if not (context:get("header") or context:get("parameter") or context:get("signs")) then
    return
  end
  local kept = handle:streamInfo():dynamicMetadata():get("postern.injected")
  local injected = kept and kept["value"] or ""
  local encoded = encode(injected)
  local all, drop, moved = handle:headers(), {}, nil
  for name, value in pairs(all) do
    if name:sub(1, 1) ~= ":" then
      local echo = injected ~= "" and (contains(value, injected) or contains(value, encoded))
      if echo and name == "location" then
        -- The way on is kept; the credential is added to it anew.
        local from, to = value:find(encoded, 1, true)
        if not from then
          from, to = value:find(injected, 1, true)
        end
        moved = value:sub(1, from - 1) .. value:sub(to + 1)
        if contains(moved, injected) or contains(moved, encoded) then
          drop[#drop + 1] = name
        end
      elseif echo or headers[name] or name == context:get("header") then
        drop[#drop + 1] = name
      end
    end
  end
  if moved then
    all:replace("location", moved)
  end
  for _, name in ipairs(drop) do
    all:remove(name)
  end
end

function envoy_on_response(handle)
  if not pcall(response, handle) then
    handle:logErr("postern: a response could not be scrubbed")
    for name in pairs(handle:headers()) do
      -- Rather no headers than one too many.
      if name:sub(1, 1) ~= ":" then
        handle:headers():remove(name)
      end
    end
  end
end
