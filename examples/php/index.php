<?php
// A chat beside Holdfast, in plain PHP: Holdfast keeps the sockets, this program keeps nothing.
declare(strict_types=1);

// The signature is of the body's bytes, so the body is taken as it came.
$body = file_get_contents('php://input');
if (parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH) !== '/events') {
    refuse(404, 'no such page');
}
if (!is_signed($body, getenv('HOLDFAST_SIGNING_SECRET'))) {
    refuse(401, 'bad signature');
}
$event = json_decode($body, true, flags: JSON_THROW_ON_ERROR);
match (true) {
    $event['type'] === 'holdfast.connect' => connect($event),
    $event['type'] === 'holdfast.disconnect' => disconnect($event),
    $event['event'] === 'chat.send' => send($event),
    $event['event'] === 'chat.remind' => remind($event),
    default => refuse(404, 'no such event'),
};

// Standard Webhooks: an HMAC of ID, time and body, of which the header may hold several. Anything older than five minutes is a replay.
function is_signed(string $body, string $secret): bool
{
    $id = $_SERVER['HTTP_WEBHOOK_ID'] ?? '';
    $time = $_SERVER['HTTP_WEBHOOK_TIMESTAMP'] ?? '';
    if (!ctype_digit($time) || abs(time() - (int) $time) > 300) {
        return false;
    }
    $key = base64_decode(substr($secret, strlen('whsec_')));
    $expected = 'v1,' . base64_encode(hash_hmac('sha256', "$id.$time.$body", $key, true));
    foreach (explode(' ', $_SERVER['HTTP_WEBHOOK_SIGNATURE'] ?? '') as $signature) {
        if (hash_equals($expected, $signature)) {
            return true;
        }
    }
    return false;
}

// Accepts the socket, says whose it is and puts it into a group. The body is the first frame.
function connect(array $event): void
{
    $user = $event['data']['query']['user'] ?? '';
    if (!preg_match('/^[a-z0-9]{1,32}$/D', $user)) {
        refuse(403, 'say who you are: ?user=ann');
    }
    header("Holdfast-User: $user");
    header('Holdfast-Join: lobby');
    answer(['type' => 'chat.welcome', 'user' => $user], 'application/json');
}

function disconnect(array $event): void
{
    http_response_code(204);
    error_log("{$event['userid']} left: {$event['data']['cause']}");
}

// Commands: the first goes to the sender, the second to everybody else in the group.
function send(array $event): void
{
    $message = ['type' => 'chat.message', 'from' => $event['userid'], 'text' => $event['data']['text']];
    answer([
        ['send' => ['data' => ['type' => 'chat.sent', 'seq' => $event['seq']]]],
        ['send' => ['to' => ['group' => 'lobby', 'except' => [$event['connectionid']]], 'data' => $message]],
    ], 'application/vnd.holdfast.commands+json');
}

// Answers at once and pushes afterwards. A real application leaves the rest to its job queue: here a worker of the server sleeps.
function remind(array $event): void
{
    ignore_user_abort(true);
    http_response_code(204);
    flush();
    usleep($event['data']['after_ms'] * 1000);
    push($event['connectionid'], ['type' => 'chat.reminder', 'text' => $event['data']['text']]);
}

// Any process may push to a socket at any time, by the connection's ID.
function push(string $connection, array $message): void
{
    $admin = getenv('HOLDFAST_ADMIN') ?: 'http://127.0.0.1:8001';
    $headers = ['Content-Type: application/json', 'Authorization: Bearer ' . getenv('HOLDFAST_ADMIN_TOKEN')];
    $request = ['method' => 'POST', 'header' => $headers, 'content' => json_encode($message), 'ignore_errors' => true];
    file_get_contents("$admin/v1/connections/$connection/messages", context: stream_context_create(['http' => $request]));
    error_log("push to $connection: " . ($http_response_header[0] ?? 'no answer'));
}

function answer(array $body, string $type): void
{
    header("Content-Type: $type");
    echo json_encode($body, JSON_THROW_ON_ERROR);
}

function refuse(int $status, string $why): never
{
    http_response_code($status);
    header('Content-Type: text/plain');
    exit($why);
}
