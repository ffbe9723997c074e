-- What header mutations cannot do to a request: take an agent's own keys out of
-- the query and out of lists, and put a credential into the query. It follows
-- the tables parameters and protocols and the name secret, made from slots.go.
--
-- Nothing but what is named is changed: Envoy's own query mutations write every
-- parameter decoded, so that x=%26key%3D1 becomes x=&key=1 (docs/envoy.md).

local function decode(name)
  local s = name:gsub("+", " "):gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end)
  -- As PHP reads a name: without what precedes it, and up to a zero byte or a
  -- bracket. Some servers trim what follows it, too.
  -- In between it takes dots and spaces for underscores; to others these and
  -- hyphens are one.
  s = s:match("^%s*([^%z%[]*)"):gsub("[%s%._]+$", "")
  s = s:lower():gsub("[%s%.%-]", "_")
  return s
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

local function scrub_path(all, parameter)
  local path, value = all:get(":path"), all:get(secret)
  if value then
    all:remove(secret)
  end
  if not path or not (parameter or path:find("?", 1, true)) then
    return
  end
  local before, query = path:match("^([^?]*)%??(.*)$")
  local after = stripped(query, parameter and decode(parameter))
  if parameter then
    after = (after == "" and "" or after .. "&") .. encode(parameter) .. "=" .. encode(value)
  end
  if after ~= query then
    all:replace(":path", after == "" and before or before .. "?" .. after)
  end
end

-- Browsers cannot set headers on a WebSocket, so some services take a key here.
local function scrub_protocols(all)
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

local function request(handle)
  local all, rule = handle:headers(), handle:metadata()
  local parameter = rule:get("parameter")
  if parameter then
    -- For echo.lua.
    handle:streamInfo():dynamicMetadata():set("postern.injected", "value", all:get(secret))
  end
  scrub_path(all, parameter)
  scrub_protocols(all)
  -- Such a body is a sequence of parts that the agent has signed itself.
  local digest = rule:get("signs") and all:get("x-amz-content-sha256")
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
