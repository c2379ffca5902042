# SPDX-License-Identifier: Apache-2.0
"""Every change of a job's state, as Lua that Redis runs alone: compare, then set.

Keys (one Redis per farm, all under `farm:`):
    farm:spec:<id>          the job itself (farm.broker.content); apart: a worker's rights on states are none on it
    farm:job:<id>           hash: state, sweep, target, order, attempt, token, device, ...
    farm:ready:<sweep>|<target>   zset job -> rank: the waiting line of a sweep at a target
    farm:lines              set of the lines that are not empty
    farm:sweep:<id>         hash: name, priority, submitted_at, served (predicted device-seconds handed out), and what
                            its jobs have in common, as `part:<digest>`
    farm:sweeps             zset sweep -> when it was submitted
    farm:sweep-jobs:<id>    zset job -> order
    farm:counts:<sweep>     hash state -> number of jobs
    farm:window:<device>    set of the jobs dispatched to, claimed or running on a device
    farm:settling:<device>  set of the jobs that have left the device and whose records are on their way to the store
    farm:leases             zset job -> when its lease ends (ms, Redis's clock: no worker's clock matters)
    farm:wake               list the scheduler sleeps on
    farm:owed               set of the jobs that ended outside of any worker and may lack their records
    farm:failed:<device>    list of the jobs that failed there since the last one that did not, the newest first

Source: the fenced-lease pattern (one token per claim, checked on every write); start-time fair queueing for `served`.
"""

PRELUDE = """
local function now() local t=redis.call('TIME'); return t[1]*1000+math.floor(t[2]/1000) end
local function wake() redis.call('LPUSH','farm:wake','1'); redis.call('LTRIM','farm:wake',0,0) end
local function key(id) return 'farm:job:'..id end
local function spec(id) return 'farm:spec:'..id end
local function line(sweep,target) return 'farm:ready:'..sweep..'|'..target end
local function shift(sweep,from,to)
  if from then redis.call('HINCRBY','farm:counts:'..sweep,from,-1) end
  redis.call('HINCRBY','farm:counts:'..sweep,to,1)
end
local function enqueue(id,sweep,target,order)
  local rank=tonumber(order)
  if string.sub(target,1,4)=='cls:' then
    local predicted=tonumber(redis.call('HGET',key(id),'predicted') or '1') or 1
    rank=rank-1e6*math.floor(math.log(math.max(predicted,1))/math.log(2)+1e-9)
  end
  redis.call('ZADD',line(sweep,target),rank,id); redis.call('SADD','farm:lines',sweep..'|'..target)
end
local function dequeue(id,sweep,target)
  redis.call('ZREM',line(sweep,target),id)
  if redis.call('EXISTS',line(sweep,target))==0 then redis.call('SREM','farm:lines',sweep..'|'..target) end
end
local function set_state(id,sweep,from,to,...)
  redis.call('HSET',key(id),'state',to,'t_'..to,now(),...)
  shift(sweep,from,to)
end
local function leave_device(id,device)
  if device and device~='' then redis.call('SREM','farm:window:'..device,id) end
  redis.call('ZREM','farm:leases',id)
end
local function leave_claimed(id,device)
  leave_device(id,device)
  if device and device~='' then redis.call('SREM','farm:settling:'..device,id) end
end
local function maintained(device) return redis.call('HGET','farm:device:'..(device or ''),'state')=='maintenance' end
local function owe(id) redis.call('SADD','farm:owed',id) end
local function content(id,sweep)
  local c=redis.call('GET',spec(id)); if not c then return '' end
  local shared,case,kind,name=string.match(c,'^@(%x+) (%x+) (%l+):(.+)$')
  if not shared then return c end
  local p=redis.call('HMGET','farm:sweep:'..sweep,'part:'..shared,'part:'..case)
  if not (p[1] and p[2]) then return '' end
  local target=kind=='dev' and '"device_id":"'..name..'","device_class":null'
    or '"device_id":null,"device_class":"'..name..'"'
  return '{'..p[1]..','..p[2]..',"job_id":"'..id..'","target":{'..target..'}}'
end
local function head(l)
  local r=redis.call('ZRANGE','farm:ready:'..l,0,0,'WITHSCORES')
  if not r[1] then return nil end
  local h=redis.call('HMGET',key(r[1]),'predicted','name')
  return r[1],r[2],h[1],h[2] or r[1]
end
local function serve(sweep,seconds) redis.call('HINCRBYFLOAT','farm:sweep:'..sweep,'served',seconds) end
"""

#: ARGV: sweep, sweep name, priority or '', number of parts, then for each part: field, text; then for each job: id,
#: spec, name, target, predicted seconds, order.
#: A sweep that joins starts at the smallest `served` of those that wait, so that it neither starves nor overtakes.
SUBMIT = """
local sweep=ARGV[1]; local skey='farm:sweep:'..sweep; local added=0
if redis.call('EXISTS',skey)==0 then
  local floor=nil
  for _,l in ipairs(redis.call('SMEMBERS','farm:lines')) do
    local s=string.match(l,'^(.-)|'); local v=tonumber(redis.call('HGET','farm:sweep:'..s,'served') or '0')
    if not floor or v<floor then floor=v end
  end
  redis.call('HSET',skey,'name',ARGV[2],'priority',ARGV[3]~='' and ARGV[3] or '5')
  redis.call('HSET',skey,'submitted_at',now(),'served',floor or 0)
  redis.call('ZADD','farm:sweeps',now(),sweep)
elseif ARGV[3]~='' then redis.call('HSET',skey,'priority',ARGV[3]) end
local first=5+2*tonumber(ARGV[4])
for i=5,first-1,2 do redis.call('HSET',skey,ARGV[i],ARGV[i+1]) end
for i=first,#ARGV,6 do
  local id=ARGV[i]
  if redis.call('EXISTS',key(id))==0 then
    redis.call('SET',spec(id),ARGV[i+1])
    redis.call('HSET',key(id),'name',ARGV[i+2],'target',ARGV[i+3],'predicted',ARGV[i+4],
      'order',ARGV[i+5],'sweep',sweep,'state','queued','attempt',0,'t_queued',now())
    redis.call('ZADD','farm:sweep-jobs:'..sweep,ARGV[i+5],id); shift(sweep,nil,'queued')
    enqueue(id,sweep,ARGV[i+3],ARGV[i+5]); added=added+1
  end
end
wake(); return added
"""

#: ARGV: job, spec of the next generation. Only a job that has ended can be tried again.
RETRY = """
local id=ARGV[1]; local h=redis.call('HMGET',key(id),'state','sweep','target','order')
if not h[1] then return 'unknown' end
if h[1]~='done' and h[1]~='failed' and h[1]~='cancelled' and h[1]~='quarantined' then return h[1] end
redis.call('HDEL',key(id),'cancel','token','device','summary','progress','reason','kills','lost','logs')
redis.call('SREM','farm:owed',id)
redis.call('SET',spec(id),ARGV[2]); redis.call('HSET',key(id),'attempt',0)
set_state(id,h[2],h[1],'queued'); enqueue(id,h[2],h[3],h[4]); wake(); return 'queued'
"""

#: ARGV: job, device, line, queue and message, or '' for none. queued -> dispatched; the message goes with it, so that
#: both are flushed to the disk at once. Answers with what became of the line, so that nobody has to look at all of them
#: again: 1 or 0, the job's name, the sweep's `served`, and the line's first job, order, predicted and name, where it
#: has one.
DISPATCH = """
local id=ARGV[1]; local done=0
local h=redis.call('HMGET',key(id),'state','sweep','target','predicted','name')
if h[1]=='queued' then
  dequeue(id,h[2],h[3]); redis.call('SADD','farm:window:'..ARGV[2],id)
  set_state(id,h[2],'queued','dispatched','device',ARGV[2]); serve(h[2],h[4]); done=1
  if ARGV[5]~='' then redis.call('LPUSH',ARGV[4],ARGV[5]) end
end
local sweep=string.match(ARGV[3],'^(.-)|')
return {done,h[5] or id,redis.call('HGET','farm:sweep:'..sweep,'served') or '0',head(ARGV[3])}
"""

#: ARGV: job. dispatched -> queued: its message, when it comes, finds nothing to claim.
RECALL = """
local id=ARGV[1]; local h=redis.call('HMGET',key(id),'state','sweep','target','order','device','predicted')
if h[1]~='dispatched' then return 0 end
leave_device(id,h[5]); set_state(id,h[2],'dispatched','queued','device','')
enqueue(id,h[2],h[3],h[4]); serve(h[2],-tonumber(h[6])); wake(); return 1
"""

#: ARGV: job, device, owner, token, lease in ms. dispatched -> claimed.
CLAIM = """
local id=ARGV[1]; local h=redis.call('HMGET',key(id),'state','device','sweep')
if not h[1] then return {'unknown'} end
if h[1]~='dispatched' then return {'state',h[1]} end
if h[2]~=ARGV[2] then return {'device',h[2]} end
local attempt=redis.call('HINCRBY',key(id),'attempt',1)
redis.call('ZADD','farm:leases',now()+ARGV[5],id)
set_state(id,h[3],'dispatched','claimed','token',ARGV[4],'owner',ARGV[3],'lease_ms',ARGV[5])
return {'ok',attempt,content(id,h[3])}
"""

#: ARGV: job, token. claimed -> running.
RUNNING = """
local id=ARGV[1]; local h=redis.call('HMGET',key(id),'state','token','sweep')
if h[2]~=ARGV[2] then return 0 end
if h[1]=='claimed' then set_state(id,h[3],'claimed','running') end
return 1
"""

#: ARGV: job, token, lease in ms, how long a job goes on in maintenance in ms or '' for to its end. 1 held, 0 asked to
#: cancel, 2 to be handed back, -1 fenced.
RENEW = """
local id=ARGV[1]; local h=redis.call('HMGET',key(id),'state','token','cancel','device')
if h[2]~=ARGV[2] or (h[1]~='claimed' and h[1]~='running') then return -1 end
redis.call('ZADD','farm:leases',now()+ARGV[3],id)
if h[3] then return 0 end
if ARGV[4]~='' and maintained(h[4]) then
  local began=tonumber(redis.call('HGET','farm:device:'..h[4],'state_at') or '0')
  if now()-began>=tonumber(ARGV[4]) then return 2 end
end
return 1
"""

#: ARGV: job, token, progress as JSON.
PROGRESS = """
local id=ARGV[1]
if redis.call('HGET',key(id),'token')~=ARGV[2] then return 0 end
redis.call('HSET',key(id),'progress',ARGV[3]); return 1
"""

#: ARGV: job, token, progress. The job has done with its device, and its results are where they outlive its worker; the
#: next one may start. It still runs, and its lease is renewed, until the store has its records. 0: fenced, or ended.
SETTLE = """
local id=ARGV[1]; local h=redis.call('HMGET',key(id),'state','token','device')
if h[2]~=ARGV[2] or (h[1]~='claimed' and h[1]~='running') then return 0 end
redis.call('HSET',key(id),'progress',ARGV[3]); redis.call('SREM','farm:window:'..h[3],id)
redis.call('SADD','farm:settling:'..h[3],id); wake(); return 1
"""

#: ARGV: job, token, end state, summary, '1' if records are owed. 1 done, 0 done before with this token, -1 fenced.
FINISH = """
local id=ARGV[1]; local h=redis.call('HMGET',key(id),'state','token','sweep','device')
if h[2]~=ARGV[2] then return -1 end
if h[1]~='claimed' and h[1]~='running' then return 0 end
leave_claimed(id,h[4]); set_state(id,h[3],h[1],ARGV[3],'summary',ARGV[4])
if ARGV[5]=='1' then owe(id) end
local failed='farm:failed:'..h[4]
if ARGV[3]=='failed' then redis.call('LREM',failed,0,id); redis.call('LPUSH',failed,id); redis.call('LTRIM',failed,0,99)
elseif ARGV[3]=='done' then redis.call('DEL',failed) end
wake(); return 1
"""

#: ARGV: job, token, reason. Back to the waiting line; the attempt does not count.
RELEASE = """
local id=ARGV[1]
local h=redis.call('HMGET',key(id),'state','token','sweep','target','order','device','cancel','predicted')
if h[2]~=ARGV[2] or (h[1]~='claimed' and h[1]~='running') then return 0 end
leave_claimed(id,h[6]); redis.call('HINCRBY',key(id),'attempt',-1)
if h[7] then set_state(id,h[3],h[1],'cancelled','token','-','device',''); owe(id); wake(); return 1 end
set_state(id,h[3],h[1],'queued','token','-','device','','reason',ARGV[3])
enqueue(id,h[3],h[4],h[5]); serve(h[3],-tonumber(h[8])); wake(); return 1
"""

#: ARGV: jobs, 500 at most. What has not started is cancelled at once; what runs is asked to stop. A state for each;
#: what is the same for many of them is done once for all of them.
CANCEL = """
local out={}; local gone={}; local lines={}; local moved={}; local at=now()
local function note(t,k,id) t[k]=t[k] or {}; t[k][#t[k]+1]=id end
for i,id in ipairs(ARGV) do
  local h=redis.call('HMGET',key(id),'state','sweep','target','device')
  out[i]=h[1] or 'unknown'
  if h[1]=='queued' or h[1]=='dispatched' then
    redis.call('HSET',key(id),'state','cancelled','t_cancelled',at)
    if h[1]=='queued' then note(lines,h[2]..'|'..h[3],id)
    else leave_device(id,h[4]); redis.call('HSET',key(id),'device','') end
    note(moved,h[2]..'|'..h[1],id); gone[#gone+1]=id; out[i]='cancelled now'
  elseif h[1]=='claimed' or h[1]=='running' then redis.call('HSET',key(id),'cancel','1') end
end
for l,ids in pairs(lines) do
  redis.call('ZREM','farm:ready:'..l,unpack(ids))
  if redis.call('EXISTS','farm:ready:'..l)==0 then redis.call('SREM','farm:lines',l) end
end
for k,ids in pairs(moved) do
  local sweep,from=string.match(k,'^(.*)|(.-)$')
  redis.call('HINCRBY','farm:counts:'..sweep,from,-#ids); redis.call('HINCRBY','farm:counts:'..sweep,'cancelled',#ids)
end
if #gone>0 then redis.call('SADD','farm:owed',unpack(gone)); wake() end
return out
"""

#: ARGV: limit of attempts, Redis's uptime in ms, limit of workers killed. Leases that ended: back to the line, or an
#: end state. A lease longer than Redis has been up is let be: while Redis was away nobody could renew. A device in
#: maintenance is taken apart by people: what ended with it speaks neither against the job nor against the device.
#: A job of which only a part is left, in a Redis that could not read all of its file, goes: the stored sweeps have it.
REAP = """
local out={}
for _,id in ipairs(redis.call('ZRANGEBYSCORE','farm:leases','-inf',now(),'LIMIT',0,100)) do
  local h=redis.call('HMGET',key(id),'state','sweep','target','order','device','attempt','cancel','lease_ms','kills',
    'lost')
  if not (h[1] and h[2] and h[3] and h[4] and tonumber(h[6])) then
    leave_claimed(id,h[5]); redis.call('DEL',key(id)); redis.call('DEL','farm:rebuilt')
  elseif tonumber(h[8] or '0')<=tonumber(ARGV[2]) then
    leave_claimed(id,h[5])
    local excused=maintained(h[5])
    if excused then redis.call('HINCRBY',key(id),'attempt',-1)
    else
      local lost=cjson.decode(h[10] or '[]')
      lost[#lost+1]={attempt=tonumber(h[6]),device=h[5],at=now(),how=h[8]=='0' and 'worker died' or 'lease ended'}
      redis.call('HSET',key(id),'lost',cjson.encode(lost))
    end
    if h[7] then
      set_state(id,h[2],h[1],'cancelled','token','-'); owe(id); out[#out+1]=id; out[#out+1]='cancelled'
    elseif not excused and (tonumber(h[6])>=tonumber(ARGV[1]) or tonumber(h[9] or '0')>=tonumber(ARGV[3])) then
      set_state(id,h[2],h[1],'quarantined','token','-'); owe(id); out[#out+1]=id; out[#out+1]='quarantined'
    else
      set_state(id,h[2],h[1],'queued','token','-','device',''); enqueue(id,h[2],h[3],h[4])
      out[#out+1]=id; out[#out+1]='queued'
    end
  end
end
if #out>0 then wake() end
return out
"""

#: ARGV: device, owner. A worker that starts takes back at once what an earlier one of its device left claimed.
#: What was only settling did not kill it.
DISOWN = """
local n=0; local excused=maintained(ARGV[1])
for _,set in ipairs({'farm:window:','farm:settling:'}) do
  for _,id in ipairs(redis.call('SMEMBERS',set..ARGV[1])) do
    local h=redis.call('HMGET',key(id),'state','owner')
    if (h[1]=='claimed' or h[1]=='running') and h[2]~=ARGV[2] then
      redis.call('ZADD','farm:leases',0,id); redis.call('HSET',key(id),'lease_ms',0); n=n+1
      if not excused and set=='farm:window:' then redis.call('HINCRBY',key(id),'kills',1) end
    end
  end
end
if n>0 then wake() end
return n
"""

#: ARGV: job, then blobs as JSON. Each is noted once; so many belong to more attempts than a job is given.
KEEP_LOGS = """
local id=ARGV[1]; if redis.call('EXISTS',key(id))==0 then return 0 end
local logs=cjson.decode(redis.call('HGET',key(id),'logs') or '[]'); local seen={}
for _,l in ipairs(logs) do seen[l.kind..l.sha256]=true end
for i=2,#ARGV do
  local l=cjson.decode(ARGV[i])
  if not seen[l.kind..l.sha256] and #logs<100 then logs[#logs+1]=l end
end
if #logs>0 then redis.call('HSET',key(id),'logs',cjson.encode(logs)) end
return #logs
"""

#: No ARGV. For each line its first job: line, job, rank, predicted, priority, served, submitted.
HEADS = """
local out={}; local sweeps={}
for _,l in ipairs(redis.call('SMEMBERS','farm:lines')) do
  local id,order,predicted,name=head(l); local sweep=string.match(l,'^(.-)|')
  sweeps[sweep]=sweeps[sweep] or redis.call('HMGET','farm:sweep:'..sweep,'priority','served','submitted_at')
  local s=sweeps[sweep]
  if id then
    for _,v in ipairs({l,id,order,predicted,s[1] or '5',s[2] or '0',s[3] or '0',name}) do out[#out+1]=v end
  end
end
return out
"""

SCRIPTS = {
    "submit": SUBMIT,
    "retry": RETRY,
    "dispatch": DISPATCH,
    "recall": RECALL,
    "claim": CLAIM,
    "running": RUNNING,
    "renew": RENEW,
    "progress": PROGRESS,
    "settle": SETTLE,
    "finish": FINISH,
    "release": RELEASE,
    "cancel": CANCEL,
    "reap": REAP,
    "disown": DISOWN,
    "keep_logs": KEEP_LOGS,
    "heads": HEADS,
}
