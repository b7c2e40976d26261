-- One row a request, 1,000 different rows, a new id each time. Threads and connections come from wrk's flags.
-- BENCH_STYLE=plain: {"x": [[…]]}, for servers with a form of their own; otherwise Open Inference V2.
local plain = os.getenv("BENCH_STYLE") == "plain"
local tails = {}
math.randomseed(7)
for i = 1, 1000 do
  local d = {}
  for j = 1, 30 do d[j] = string.format("%.6f", math.random() * 4 - 2) end
  local row = table.concat(d, ",")
  if plain then
    tails[i] = '{"x":[[' .. row .. ']]}'
  else
    tails[i] = '","inputs":[{"name":"x","shape":[1,30],"datatype":"FP32","data":[' .. row .. ']}]}'
  end
end
local n = 0
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
request = function()
  n = n + 1
  local tail = tails[n % 1000 + 1]
  return wrk.format("POST", nil, nil, plain and tail or '{"id":"r' .. n .. tail)
end
done = function(summary, latency, requests)
  io.write(string.format('{"requests":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,"bad":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
